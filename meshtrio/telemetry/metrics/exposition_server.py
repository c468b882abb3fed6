"""Metrics over HTTP, for Prometheus: GET /metrics, in its text form or in OpenMetrics.

HTTP is h11's, the text prometheus_client's (extra `metrics`); a connection is for one request. What
is exposed is gathered anew for each scrape, but once for all that wait while another is under way,
and turned into text in a thread, since that takes its time.
"""

from __future__ import annotations

import gzip
import logging
import math
import socket
from collections.abc import Awaitable, Callable, Sequence
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

_REQUEST_TIMEOUT = 10.0
"""Seconds for a request to come, and for its answer to be taken."""
_MAX_CONNECTIONS = 16
_READ_SIZE = 16 * 1024
_OPENMETRICS_EOF = b"# EOF\n"
"""The end of a text in OpenMetrics."""

_TEXT_HEADERS: HttpHeaders = [("content-type", "text/plain; charset=utf-8")]
_SCRAPE_TIMEOUT_HEADER = b"x-prometheus-scrape-timeout-seconds"

CollectFamilies = Callable[[float | None], Awaitable[Sequence[MetricFamily]]]
"""Is told how many seconds whoever asks waits for the answer, where that is said."""
HttpHeaders = list[tuple[str, str]]
HttpResponse = tuple[int, HttpHeaders, bytes]
"""Status, headers and body."""


async def serve_metrics(
    collect_families: CollectFamilies,
    listen: str,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve what `gather` gives on "tcp:host:port" until cancelled.

    Reports started once it listens. Raises UsageError where it cannot.
    """
    places, scrapes = trio.CapacityLimiter(_MAX_CONNECTIONS), ScrapeCoalescer(collect_families)
    with tcp_listener(listen) as sock:

        async def answer(stream: trio.SocketStream) -> None:
            async with stream:
                try:
                    places.acquire_nowait()
                except trio.WouldBlock:
                    return
                try:
                    with trio.move_on_after(_REQUEST_TIMEOUT):
                        await _handle_connection(stream, scrapes)
                finally:
                    places.release()

        def take(accepted: socket.socket, exhausted: bool) -> None:
            if exhausted:
                accepted.close()  # An answer takes more than the descriptor that this would keep.
                return
            accepted.setblocking(False)
            stream = trio.SocketStream(trio.socket.from_stdlib_socket(accepted))
            nursery.start_soon(answer, stream)

        async with trio.open_nursery() as nursery:
            acceptor = Acceptor(take)
            acceptor.listen(sock)
            task_status.started()
            await acceptor.run()


async def _handle_connection(stream: trio.SocketStream, scrapes: ScrapeCoalescer) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_READ_SIZE)
    try:
        method, (status, headers, body) = await _handle_request(stream, connection, scrapes)
        length = ("content-length", str(len(body)))
        head = h11.Response(status_code=status, headers=[*headers, length, ("connection", "close")])
        said = connection.send(head) or b""
        await stream.send_all(said if method == b"HEAD" else said + body)
        await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        _log.debug("a request for metrics came to nothing: %s", exc)


async def _handle_request(
    stream: trio.SocketStream, connection: h11.Connection, scrapes: ScrapeCoalescer
) -> tuple[bytes, HttpResponse]:
    """The method of a request, and the answer to it, whatever it is."""
    method = b""
    try:
        request = await _read_request(stream, connection)
        method = request.method
        return method, await _make_response(request, scrapes)
    except h11.RemoteProtocolError as exc:
        _log.debug("a request for metrics was none: %s", exc)
        return method, (exc.error_status_hint, _TEXT_HEADERS, b"This is for HTTP/1.1.\n")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise
    except Exception:
        # A bug, of ours or of who gives the metrics; it may cost this scrape, and nothing else.
        _log.exception("metrics could not be told")
        return method, (500, _TEXT_HEADERS, b"Metrics could not be told; the log says why.\n")


async def _read_request(stream: trio.SocketStream, connection: h11.Connection) -> h11.Request:
    while True:
        event: Any = connection.next_event()
        if isinstance(event, h11.Request):
            return event
        data = await stream.receive_some(_READ_SIZE)
        connection.receive_data(data)
        if not data:
            raise h11.RemoteProtocolError("the peer closed the connection")


async def _make_response(request: h11.Request, scrapes: ScrapeCoalescer) -> HttpResponse:
    if request.target.partition(b"?")[0] != b"/metrics":
        return 404, _TEXT_HEADERS, b"Metrics are at /metrics.\n"
    if request.method not in (b"GET", b"HEAD"):
        return 405, [*_TEXT_HEADERS, ("allow", "GET, HEAD")], b"Metrics are for GET.\n"
    asked = {name: value.decode("latin-1") for name, value in request.headers}
    packed = "gzip" in asked.get(b"accept-encoding", "")
    within = _parse_timeout(asked.get(_SCRAPE_TIMEOUT_HEADER))
    kind, body = await scrapes.scrape(within, asked.get(b"accept", ""), use_gzip=packed)
    headers = [("content-type", kind)]
    return 200, [*headers, ("content-encoding", "gzip")] if packed else headers, body


def _parse_timeout(text: str | None) -> float | None:
    """None for what is no number of seconds."""
    try:
        seconds = float(text or "nan")
    except ValueError:
        return None
    return seconds if seconds > 0 else None


class ScrapeCoalescer:
    """Gathers and encodes once for all who ask meanwhile, so that more of them cost no more."""

    def __init__(self, collect_families: CollectFamilies) -> None:
        self._collect_families = collect_families
        self._lock = trio.Lock()
        self._collected_at = -math.inf
        self._families: Sequence[MetricFamily] = ()
        self._encoded_bodies: dict[tuple[str, bool], bytes] = {}
        """By content type, and whether it is compressed."""

    async def scrape(
        self, timeout_seconds: float | None, accept: str, *, use_gzip: bool
    ) -> tuple[str, bytes]:
        """The content type and the text of a scrape that began after this was called."""
        asked = trio.current_time()
        encode, kind = choose_encoder(accept)
        async with self._lock:
            if self._collected_at < asked:
                began = trio.current_time()
                self._families, self._encoded_bodies = (
                    await self._collect_families(timeout_seconds),
                    {},
                )
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
    pace: GilYielder,
) -> bytes:
    """Encode family by family, as each of these calls holds the interpreter."""
    text = bytearray()
    ending = b""
    for family in families:
        pace()
        try:
            part = encode(PrometheusCollector(partial(list, [family])))
        except Exception:
            # Something that prometheus_client does not take, which shall not cost the others.
            _log.exception("metric %r cannot be written", family.name)
            continue
        if part.endswith(_OPENMETRICS_EOF):
            part, ending = part[: -len(_OPENMETRICS_EOF)], _OPENMETRICS_EOF
        text += part
    text += ending or encode(PrometheusCollector(list))
    return gzip.compress(text, 1) if use_gzip else bytes(text)
