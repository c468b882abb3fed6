"""GET /api/stream: live data as Server-Sent Events, one stream for each page.

The query selects what is in it. Snapshots (`topics`) are collected once for all viewers. Events,
output and calls are streams of Control for each viewer, since viewers select different ones; their
rate is limited, for each viewer and for all, and what is not read in time is dropped by the mesh's
own buffers and reported as `lost`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.dashboard.control_client import ControlClient, to_refusal
from meshtrio.dashboard.json_messages import message_to_plain, to_json
from meshtrio.dashboard.pace import Pace, TotalPace
from meshtrio.dashboard.query import invalid, parse_float, parse_number, split_names
from meshtrio.dashboard.requests_check import RefusedError
from meshtrio.dashboard.topics import Source, subscribed
from meshtrio.dashboard.viewer import Viewer, make_event
from meshtrio.messages import control, tap
from meshtrio.transport.http_server import SendChunk
from meshtrio.util.concurrency import open_collapsing_nursery

_log = logging.getLogger("meshtrio.dashboard")

MAX_VIEWERS = 100
_KEEP_ALIVE_INTERVAL = 15.0
_SEND_INTERVAL = 0.1
"""Seconds between two writes to a viewer; what happens meanwhile is sent together."""
_MAX_LAST = 2000
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")

_TOPICS = ("statistics", "calls", "services", "nodes")
PARAMETERS = (
    *_TOPICS,
    *("events", "history", "logs", "log_level", "log_last"),
    *("tap", "tap_method", "tap_failed", "tap_at_least"),
)


@attrs.frozen
class Feed:
    """A stream of Control for one viewer."""

    name: str
    """Name of its events."""
    method: str
    request: Any
    is_frequent: bool = False
    """Whether there may be thousands of messages per second."""
    is_wanted: Callable[[Any], bool] = lambda message: True


def select_feeds(values: Mapping[str, str]) -> list[Feed]:
    """Return the streams that a query selects. Raises RefusedError."""
    for name in values:
        if name not in PARAMETERS:
            raise invalid(f"unknown parameter {name[:100]!r}; choose from {', '.join(PARAMETERS)}")
    return list(_select_feeds(dict(values)))


def _select_feeds(values: dict[str, str]) -> Iterator[Feed]:
    if "events" in values:
        last = parse_number(values, "events", highest=_MAX_LAST)
        yield Feed("event", "WatchEvents", control.WatchEventsRequest(last=last, follow=True))
    if is_set(values, "history"):
        # Changes only: the page gets what has been from /api/history.
        request = control.WatchHistoryRequest(since=time.time(), follow=True)
        yield Feed("history", "WatchHistory", request)
    if "logs" in values:
        names = split_names(values["logs"])
        last = parse_number(values, "log_last", highest=_MAX_LAST)
        # 0 stands for all.
        wanted = control.ReadLogsRequest(names=names, last=last or 1, follow=True)
        yield Feed("log", "ReadLogs", wanted, True, _make_level_filter(values.get("log_level", "")))
    if "tap" in values:
        calls = tap.WatchCallsRequest(
            method=values.get("tap_method", ""),
            failed=is_set(values, "tap_failed"),
            at_least=parse_float(values, "tap_at_least"),
        )
        names = split_names(values["tap"])
        yield Feed(
            "call", "WatchCalls", control.WatchCallsOfRequest(names=names, calls=calls), True
        )


def is_set(values: Mapping[str, str], name: str) -> bool:
    """Return whether a parameter is there, and not 0 or false."""
    return values.get(name, "0") not in ("", "0", "false")


def _make_level_filter(level: str) -> Callable[[Any], bool]:
    """Return a filter of lines from a level on. Raises RefusedError."""
    if not level:
        return lambda line: True
    if level.upper() not in _LEVELS:
        raise invalid(f"log_level: {level[:100]!r} is not one of {', '.join(_LEVELS).lower()}")
    wanted = frozenset(_LEVELS[_LEVELS.index(level.upper()) :])
    return lambda line: line.level in wanted or not line.level


class StreamServer:
    """Serves the streams of all viewers."""

    def __init__(
        self,
        client: ControlClient,
        sources: Collection[Source],
        describe_mesh: Callable[[], dict[str, Any]],
    ) -> None:
        """Initialize; `describe_mesh` returns what the first message has, but for `Execution`."""
        self._client = client
        self._sources = sources
        self._describe_mesh = describe_mesh
        self._viewers = 0
        self._total_pace = TotalPace()

    async def open(self, values: Mapping[str, str]) -> Callable[[SendChunk], Any]:
        """Return what sends the stream that a query selects. Raises RefusedError."""
        feeds = select_feeds(values)
        topics = [name for name in _TOPICS if is_set(values, name)]
        if self._viewers >= MAX_VIEWERS:
            text = f"{MAX_VIEWERS} viewers have a stream open, the maximum"
            raise RefusedError(503, "RESOURCE_EXHAUSTED", text)
        execution = await self._client.call("GetExecution", control.GetExecutionRequest())
        mesh = {
            **self._describe_mesh(),
            "version": execution.version,
            "execution": execution.number,
            "time": time.time(),
        }

        async def send(send_chunk: SendChunk) -> None:
            self._viewers += 1
            try:
                await send_chunk(make_event("mesh", to_json(mesh)))
                await self._send(send_chunk, feeds, topics)
            finally:
                self._viewers -= 1

        return send

    async def _send(self, send_chunk: SendChunk, feeds: list[Feed], topics: list[str]) -> None:
        viewer = Viewer()
        with subscribed(self._sources, viewer, topics):
            async with open_collapsing_nursery() as nursery:
                for feed in feeds:
                    nursery.start_soon(self._run_feed, feed, viewer)
                while not viewer.has_ended:
                    data = await viewer.take(_KEEP_ALIVE_INTERVAL)
                    await send_chunk(data or b":\n\n")
                    await trio.sleep(_SEND_INTERVAL)
                nursery.cancel_scope.cancel()

    async def _run_feed(self, feed: Feed, viewer: Viewer) -> None:
        """Send a stream of Control to a viewer until it ends."""
        pace = Pace(self._total_pace if feed.is_frequent else None)
        try:
            async with self._client.open_stream(feed.method, feed.request) as call:
                async for message in call:
                    await pace.wait()
                    await _send_message(feed, message, viewer)
            viewer.end()
        except purerpc.UnavailableError:
            viewer.end()  # The page opens another stream, and gets all that it has missed.
        except purerpc.RpcFailedError as exc:
            refusal = to_refusal(exc)
            value = {"stream": feed.name, "code": refusal.code, "text": str(refusal)}
            await viewer.put("problem", value)
        except Exception:
            _log.exception("sending %s to a viewer failed", feed.method)
            viewer.end()


async def _send_message(feed: Feed, message: Any, viewer: Viewer) -> None:
    if feed.is_wanted(message):
        await viewer.put(feed.name, message_to_plain(message))
    elif message.missed:
        await viewer.put("lost", {"stream": feed.name, "missed": message.missed})
