"""Scrapes: what a mesh exposes, fetched as Prometheus fetches it, and taken apart."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import trio
from prometheus_client.parser import text_string_to_metric_families as parsed

from tests.support.ports import find_free_port


@contextmanager
def make_metrics_config() -> Iterator[tuple[str, str]]:
    """A [mesh.telemetry] table, and the URL it stands for."""
    where = f"127.0.0.1:{find_free_port()}"
    yield f'[mesh.telemetry]\nmetrics = "{where}"\n', f"http://{where}/metrics"


@attrs.frozen
class Scrape:
    samples: dict[tuple[str, frozenset[tuple[str, str]]], float]

    @classmethod
    def parse(cls, text: str, parse: Any = parsed) -> Scrape:
        return cls(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for metric in parse(text)
                for sample in metric.samples
            }
        )

    def value(self, name: str, **labels: str) -> float:
        """The sum over all series that have these labels."""
        wanted = set(labels.items())
        found = [v for (n, own), v in self.samples.items() if n == name and wanted <= own]
        assert found, (name, labels)
        return sum(found)

    def has_metric(self, name: str) -> bool:
        return any(known == name for known, _ in self.samples)


def http_get(url: str, **headers: str) -> tuple[Any, bytes]:
    request = urllib.request.Request(
        url, headers={k.replace("_", "-"): v for k, v in headers.items()}
    )
    with urllib.request.urlopen(request, timeout=300) as response:
        return response, response.read()


async def scrape(url: str, **headers: str) -> Scrape:
    _, body = await trio.to_thread.run_sync(partial(http_get, url, **headers))
    return Scrape.parse(body.decode())
