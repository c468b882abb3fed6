"""HTTP server for Prometheus: GET /metrics, in the text format or OpenMetrics (extra `metrics`).

h11 parses HTTP, prometheus_client writes the text; a connection serves one request. Families are
collected for each scrape, but only once for scrapes that wait while another one is in progress, and
encoded in a thread.
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

import h11
import trio
from prometheus_client.exposition import choose_encoder

from meshtrio.telemetry.metric_families import MetricFamily
from meshtrio.telemetry.metrics.prometheus import PrometheusCollector
from meshtrio.transport.acceptor import Acceptor
from meshtrio.transport.listener import tcp_listener
from meshtrio.util.worker_threads import GilYielder, run_computation

_log = logging.getLogger("meshtrio.telemetry")

_IDLE_TIMEOUT = 10.0
"""Seconds to receive a request, and to send each chunk of its response."""
_SEND_TIMEOUT = 60.0
"""Seconds to send a whole response."""
_CHUNK_SIZE = 64 * 1024
_MAX_CONNECTIONS = 16
_READ_SIZE = 16 * 1024
_OPENMETRICS_EOF = b"# EOF\n"
"""The last line of an OpenMetrics exposition."""

_TEXT_HEADERS: HttpHeaders = [("content-type", "text/plain; charset=utf-8")]
_SCRAPE_TIMEOUT_HEADER = b"x-prometheus-scrape-timeout-seconds"

CollectFamilies = Callable[[float | None], Awaitable[Sequence[MetricFamily]]]
"""Collects families; the argument is the scraper's timeout in seconds, None if unknown."""
HttpHeaders = list[tuple[str, str]]
HttpResponse = tuple[int, HttpHeaders, bytes]
"""Status, headers and body."""


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
    limiter, scrapes = trio.CapacityLimiter(_MAX_CONNECTIONS), ScrapeCoalescer(collect_families)
    with tcp_listener(listen) if listener is None else listener as sock:

        async def answer(stream: trio.SocketStream) -> None:
            async with stream:
                if limiter.available_tokens:
                    async with limiter:
                        await _answer_request(stream, scrapes)

        def take(accepted: socket.socket, exhausted: bool) -> None:
            if exhausted:
                accepted.close()  # A response needs more descriptors than this one.
                return
            accepted.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
            nursery.start_soon(answer, stream)

        async with trio.open_nursery() as nursery:
            acceptor = Acceptor(take)
            acceptor.listen(sock)
            task_status.started()
            await acceptor.run()


async def _answer_request(stream: trio.SocketStream, scrapes: ScrapeCoalescer) -> None:
    """Answer the request of one connection."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_READ_SIZE)
    method = b""
    response: HttpResponse
    try:
        try:
            request = await _read_request(stream, connection)
        except h11.RemoteProtocolError as exc:
            _log.debug("malformed scrape request: %s", exc)
            response = exc.error_status_hint, _TEXT_HEADERS, b"Expected an HTTP/1.1 request.\n"
        else:
            method, response = request.method, await _make_response(request, scrapes)
        status, headers, body = response
        headers = [*headers, ("content-length", str(len(body))), ("connection", "close")]
        head = connection.send(h11.Response(status_code=status, headers=headers)) or b""
        data = memoryview(head if method == b"HEAD" else head + body)
        with trio.fail_after(_SEND_TIMEOUT):
            for start in range(0, len(data), _CHUNK_SIZE):
                with trio.fail_after(_IDLE_TIMEOUT):
                    await stream.send_all(data[start : start + _CHUNK_SIZE])
        await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as exc:
        _log.debug("scrape aborted: %r", exc)


async def _read_request(stream: trio.SocketStream, connection: h11.Connection) -> h11.Request:
    with trio.move_on_after(_IDLE_TIMEOUT):
        while True:
            event: Any = connection.next_event()
            if isinstance(event, h11.Request):
                return event
            data = await stream.receive_some(_READ_SIZE)
            connection.receive_data(data)
            if not data:
                raise h11.RemoteProtocolError("the peer closed the connection")
    raise trio.BrokenResourceError(f"no request within {_IDLE_TIMEOUT:g} s")


async def _make_response(request: h11.Request, scrapes: ScrapeCoalescer) -> HttpResponse:
    if request.target.partition(b"?")[0] != b"/metrics":
        return 404, _TEXT_HEADERS, b"Metrics are at /metrics.\n"
    if request.method not in (b"GET", b"HEAD"):
        return 405, [*_TEXT_HEADERS, ("allow", "GET, HEAD")], b"Use GET.\n"
    fields = {name: value.decode("latin-1") for name, value in request.headers}
    use_gzip = "gzip" in fields.get(b"accept-encoding", "")
    seconds = _parse_timeout(fields.get(_SCRAPE_TIMEOUT_HEADER))
    try:
        accept = fields.get(b"accept", "")
        kind, body = await scrapes.scrape(seconds, accept, use_gzip=use_gzip)
    except Exception:
        # A bug here or in a source: this scrape fails, the server goes on.
        _log.exception("collecting metrics failed")
        return 500, _TEXT_HEADERS, b"Collecting metrics failed; see the log.\n"
    encoding = [("content-encoding", "gzip")] if use_gzip else []
    return 200, [("content-type", kind), *encoding], body


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
