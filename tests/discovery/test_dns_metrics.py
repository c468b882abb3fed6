"""Metrics of the names that a mesh looks up, and the page that lists them."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import trio
from prometheus_client.parser import text_string_to_metric_families as parsed

from tests import ROOT
from tests.support.dns_mesh import NAME, ONE, TIMEOUT, TWO, dns_config, run_with_dns
from tests.support.dns_server import run_dns_server
from tests.support.logs import watch_log
from tests.support.scrapes import Scrape, http_get, make_metrics_config

ROW = re.compile(r"^\| `(mesh_dns_\w+)` \| (counter|gauge) \| ([^|]*)\| .+ \|$", re.MULTILINE)


async def fetch(url: str) -> str:
    _, body = await trio.to_thread.run_sync(partial(http_get, url))
    text: str = body.decode()
    return text


async def test_lookups_failures_and_the_age_of_answers(short_dir: Path) -> None:
    target = f"dns:///{NAME}:7000"
    with make_metrics_config() as (table, url):
        async with run_dns_server(short_dir, {NAME: [ONE, TWO]}) as dns:
            config = table + dns_config(dns, target, "dns:///none.internal:7000")
            async with run_with_dns(config, short_dir) as meshed:
                await meshed.wait_for(lambda: len(meshed.hosts()) == 2)
                await dns.wait_for_queries(2, NAME)
                await dns.wait_for_queries(2, "none.internal")
                text = await fetch(url)
                found = Scrape.parse(text)
                with watch_log(f"{target} failed: there is no such name") as failed:
                    await dns.set_hosts({})
                    with trio.fail_after(TIMEOUT):
                        await failed.wait()
                later = await fetch(url)
    assert found.value("mesh_dns_endpoints", service="s", target=target) == 2
    assert found.value("mesh_dns_lookups_total", target=target) >= 1
    assert found.value("mesh_dns_failures_total", target=target) == 0
    assert 0 <= found.value("mesh_dns_answer_age_seconds", target=target) < TIMEOUT
    other = "dns:///none.internal:7000"
    lookups = found.value("mesh_dns_lookups_total", target=other)
    assert found.value("mesh_dns_failures_total", target=other, reason="no_name") == lookups >= 1
    assert found.value("mesh_dns_endpoints", target=other) == 0
    assert Scrape.parse(later).value("mesh_dns_failures_total", target=target) >= 1
    assert Scrape.parse(later).value("mesh_dns_endpoints", target=target) == 2
    page = (ROOT / "docs" / "how-to" / "metrics.md").read_text()
    listed = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in ROW.findall(page)
    }
    exposed = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name: (
            metric.type,
            {label for sample in metric.samples for label in sample.labels},
        )
        for metric in parsed(text)
        if metric.name.startswith("mesh_dns_")
    }
    assert listed == exposed
