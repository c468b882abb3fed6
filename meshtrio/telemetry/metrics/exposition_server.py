"""HTTP server for Prometheus: GET /metrics, in the text format or OpenMetrics (extra `metrics`).

prometheus_client writes the text; a connection serves one request. Families are collected for each
scrape, but only once for scrapes that wait while another one is in progress, and encoded in a
thread.
"""

from __future__ import annotations

import gzip
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import trio
from prometheus_client.exposition import choose_encoder

from meshtrio.telemetry.metric_families import MetricFamily
from meshtrio.telemetry.metrics.prometheus import PrometheusCollector
from meshtrio.transport.http_server import (
    TEXT_HEADERS,
    HttpLimits,
    HttpRequest,
    HttpResponse,
    HttpServer,
)
from meshtrio.transport.listener import tcp_listener
from meshtrio.util.worker_threads import GilYielder, run_computation

_log = logging.getLogger("meshtrio.telemetry")

_IDLE_TIMEOUT = 10.0
"""Seconds to receive a request, and to send each chunk of its response."""
_SEND_TIMEOUT = 60.0
"""Seconds to send a whole response."""
_MAX_CONNECTIONS = 16
_OPENMETRICS_EOF = b"# EOF\n"
"""The last line of an OpenMetrics exposition."""

_SCRAPE_TIMEOUT_HEADER = "x-prometheus-scrape-timeout-seconds"

CollectFamilies = Callable[[float | None], Awaitable[Sequence[MetricFamily]]]
"""Collects families; the argument is the scraper's timeout in seconds, None if unknown."""


async def serve_metrics(
    collect_families: CollectFamilies,
    listen: str,
    listener: socket.socket | None = None,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve metrics on "tcp:host:port", or on a listening socket, until cancelled.

    Raises UsageError if the address cannot be bound.

    A client is disconnected that sends no request, or reads nothing of the response, for ten
    seconds, or has not read the whole response within a minute.
    """
    scrapes = ScrapeCoalescer(collect_families)
    limits = HttpLimits(
        max_connections=_MAX_CONNECTIONS, idle_timeout=_IDLE_TIMEOUT, send_timeout=_SEND_TIMEOUT
    )
    server = HttpServer(partial(_make_response, scrapes), limits, _log)
    with tcp_listener(listen) if listener is None else listener as sock:
        await server.serve(sock, task_status=task_status)


async def _make_response(scrapes: ScrapeCoalescer, request: HttpRequest) -> HttpResponse:
    if request.path != "/metrics":
        return HttpResponse(404, TEXT_HEADERS, b"Metrics are at /metrics.\n")
    if request.method not in ("GET", "HEAD"):
        return HttpResponse(405, [*TEXT_HEADERS, ("allow", "GET, HEAD")], b"Use GET.\n")
    use_gzip = "gzip" in request.headers.get("accept-encoding", "")
    seconds = _parse_timeout(request.headers.get(_SCRAPE_TIMEOUT_HEADER))
    try:
        accept = request.headers.get("accept", "")
        kind, body = await scrapes.scrape(seconds, accept, use_gzip=use_gzip)
    except Exception:
        # A bug here or in a source: this scrape fails, the server goes on.
        _log.exception("collecting metrics failed")
        text = b"Collecting metrics failed; see the log.\n"
        return HttpResponse(500, TEXT_HEADERS, text)
    encoding = [("content-encoding", "gzip")] if use_gzip else []
    return HttpResponse(200, [("content-type", kind), *encoding], body)


def _parse_timeout(text: str | None) -> float | None:
    """Parse a number of seconds; None if it is missing or malformed."""
    with suppress(ValueError):
        if (seconds := float(text or "nan")) > 0:
            return seconds
    return None


class ScrapeCoalescer:
    """Collects and encodes once for all scrapes that wait at the same time."""

    def __init__(self, collect_families: CollectFamilies) -> None:
        self._collect_families = collect_families
        self._lock = trio.Lock()
        self._collected_at = -math.inf
        self._families: Sequence[MetricFamily] = ()
        self._encoded_bodies: dict[tuple[str, bool], bytes] = {}
        """Maps content type, and whether it is compressed, to the encoded families."""

    async def scrape(
        self, timeout_seconds: float | None, accept: str, *, use_gzip: bool
    ) -> tuple[str, bytes]:
        """Return content type and body of a collection that began after this call."""
        requested_at = trio.current_time()
        encode, kind = choose_encoder(accept)
        async with self._lock:
            if self._collected_at < requested_at:
                began = trio.current_time()
                self._families = await self._collect_families(timeout_seconds)
                self._encoded_bodies = {}
                self._collected_at = began
            if (kind, use_gzip) not in self._encoded_bodies:
                work = partial(_encode_body, encode, self._families, use_gzip)
                self._encoded_bodies[kind, use_gzip] = await run_computation(work)
            text = self._encoded_bodies[kind, use_gzip]
            if not self._lock.statistics().tasks_waiting:
                self._collected_at, self._families, self._encoded_bodies = -math.inf, (), {}
        return kind, text


def _encode_body(
    encode: Callable[[Any], bytes],
    families: Sequence[MetricFamily],
    use_gzip: bool,
    yield_gil: GilYielder,
) -> bytes:
    """Encode family by family, releasing the GIL in between."""
    text = bytearray()
    ending = b""
    for family in families:
        yield_gil()
        try:
            part = encode(PrometheusCollector(partial(list, [family])))
        except Exception:
            # prometheus_client rejects this family; the others are still exposed.
            _log.exception("metric %r cannot be encoded", family.name)
            continue
        if part.endswith(_OPENMETRICS_EOF):
            part, ending = part[: -len(_OPENMETRICS_EOF)], _OPENMETRICS_EOF
        text += part
    text += ending or encode(PrometheusCollector(list))
    return gzip.compress(text, 1) if use_gzip else bytes(text)
