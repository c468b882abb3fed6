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

from meshtrio.rpc.acceptor import Acceptor
from meshtrio.rpc.listener import tcp_listener
from meshtrio.telemetry.families import Family
from meshtrio.telemetry.metrics.prometheus import PrometheusCollector
from meshtrio.threads import Pace, compute

_log = logging.getLogger("meshtrio.telemetry")

_IDLE_TIMEOUT = 10.0
"""Seconds for a request to arrive, and for the client to read each part of its answer."""
_SEND_TIMEOUT = 60.0
"""Seconds for the client to read all of an answer."""
_CHUNK_SIZE = 64 * 1024
_MOST_AT_ONCE = 16
_READ_SIZE = 16 * 1024
_EOF = b"# EOF\n"
"""The end of a text in OpenMetrics."""

_TEXT: Headers = [("content-type", "text/plain; charset=utf-8")]
_TIMEOUT = b"x-prometheus-scrape-timeout-seconds"

Gather = Callable[[float | None], Awaitable[Sequence[Family]]]
"""Is told how many seconds whoever asks waits for the answer, where that is said."""
Headers = list[tuple[str, str]]
Reply = tuple[int, Headers, bytes]
"""Status, headers and body."""


async def expose(
    gather: Gather,
    listen: str,
    *,
    idle_timeout: float = _IDLE_TIMEOUT,
    send_timeout: float = _SEND_TIMEOUT,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve what `gather` gives on "tcp:host:port" until cancelled.

    A client that sends no request, or reads nothing of the answer, for `idle_timeout` seconds is
    disconnected, and so is one that has not read all of it after `send_timeout` seconds. The time
    for gathering the metrics is limited by `gather` alone. Reports started once it listens. Raises
    UsageError if it cannot.
    """
    places, scrapes = trio.CapacityLimiter(_MOST_AT_ONCE), Scrapes(gather)
    with tcp_listener(listen) as sock:

        async def answer(stream: trio.SocketStream) -> None:
            async with stream:
                try:
                    places.acquire_nowait()
                except trio.WouldBlock:
                    return
                try:
                    await _answer(stream, scrapes, idle_timeout, send_timeout)
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


async def _answer(
    stream: trio.SocketStream, scrapes: Scrapes, idle_timeout: float, send_timeout: float
) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=_READ_SIZE)
    try:
        method, (status, headers, body) = await _heard(stream, connection, scrapes, idle_timeout)
        length = ("content-length", str(len(body)))
        head = h11.Response(status_code=status, headers=[*headers, length, ("connection", "close")])
        said = connection.send(head) or b""
        whole = memoryview(said if method == b"HEAD" else said + body)
        with trio.fail_after(send_timeout):
            for begin in range(0, len(whole), _CHUNK_SIZE):
                with trio.fail_after(idle_timeout):
                    await stream.send_all(whole[begin : begin + _CHUNK_SIZE])
        await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as exc:
        _log.debug("a request for metrics came to nothing: %r", exc)


async def _heard(
    stream: trio.SocketStream, connection: h11.Connection, scrapes: Scrapes, idle_timeout: float
) -> tuple[bytes, Reply]:
    """The method of a request, and the answer to it, whatever it is."""
    method = b""
    try:
        request = await _request(stream, connection, idle_timeout)
        method = request.method
        return method, await _reply(request, scrapes)
    except h11.RemoteProtocolError as exc:
        _log.debug("a request for metrics was none: %s", exc)
        return method, (exc.error_status_hint, _TEXT, b"This is for HTTP/1.1.\n")
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        raise
    except Exception:
        # A bug, of ours or of who gives the metrics; it may cost this scrape, and nothing else.
        _log.exception("metrics could not be told")
        return method, (500, _TEXT, b"Metrics could not be told; the log says why.\n")


async def _request(
    stream: trio.SocketStream, connection: h11.Connection, idle_timeout: float
) -> h11.Request:
    with trio.move_on_after(idle_timeout):
        while True:
            event: Any = connection.next_event()
            if isinstance(event, h11.Request):
                return event
            data = await stream.receive_some(_READ_SIZE)
            connection.receive_data(data)
            if not data:
                raise h11.RemoteProtocolError("the peer closed the connection")
    raise trio.BrokenResourceError(f"no request within {idle_timeout:g} s")


async def _reply(request: h11.Request, scrapes: Scrapes) -> Reply:
    if request.target.partition(b"?")[0] != b"/metrics":
        return 404, _TEXT, b"Metrics are at /metrics.\n"
    if request.method not in (b"GET", b"HEAD"):
        return 405, [*_TEXT, ("allow", "GET, HEAD")], b"Metrics are for GET.\n"
    asked = {name: value.decode("latin-1") for name, value in request.headers}
    packed = "gzip" in asked.get(b"accept-encoding", "")
    within = _seconds(asked.get(_TIMEOUT))
    kind, body = await scrapes.text(within, asked.get(b"accept", ""), packed=packed)
    headers = [("content-type", kind)]
    return 200, [*headers, ("content-encoding", "gzip")] if packed else headers, body


def _seconds(text: str | None) -> float | None:
    """None for what is no number of seconds."""
    try:
        seconds = float(text or "nan")
    except ValueError:
        return None
    return seconds if seconds > 0 else None


class Scrapes:
    """Gathers and encodes once for all who ask meanwhile, so that more of them cost no more."""

    def __init__(self, gather: Gather) -> None:
        self._gather = gather
        self._busy = trio.Lock()
        self._began = -math.inf
        self._families: Sequence[Family] = ()
        self._texts: dict[tuple[str, bool], bytes] = {}
        """By content type, and whether it is compressed."""

    async def text(self, within: float | None, accept: str, *, packed: bool) -> tuple[str, bytes]:
        """The content type and the text of a scrape that began after this was called."""
        asked = trio.current_time()
        encode, kind = choose_encoder(accept)
        async with self._busy:
            if self._began < asked:
                began = trio.current_time()
                self._families, self._texts = await self._gather(within), {}
                self._began = began
            if (kind, packed) not in self._texts:
                work = partial(_encoded, encode, self._families, packed)
                self._texts[kind, packed] = await compute(work)
            text = self._texts[kind, packed]
            if not self._busy.statistics().tasks_waiting:
                self._began, self._families, self._texts = -math.inf, (), {}
        return kind, text


def _encoded(
    encode: Callable[[Any], bytes], families: Sequence[Family], packed: bool, pace: Pace
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
        if part.endswith(_EOF):
            part, ending = part[: -len(_EOF)], _EOF
        text += part
    text += ending or encode(PrometheusCollector(list))
    return gzip.compress(text, 1) if packed else bytes(text)
