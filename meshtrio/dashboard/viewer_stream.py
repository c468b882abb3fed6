"""The stream of Server-Sent Events of one page."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.dashboard.control_client import (
    Query,
    calls_request,
    events_request,
    history_request,
    logs_request,
)
from meshtrio.dashboard.json_messages import to_json_value
from meshtrio.dashboard.outbox import Outbox, encode_message
from meshtrio.dashboard.requests import Send
from meshtrio.dashboard.topics import Topic
from meshtrio.grpc.status import status_code_name
from meshtrio.util.concurrency import open_collapsing_nursery

_log = logging.getLogger("meshtrio.dashboard")

_KEEP_ALIVE = 15.0
"""Seconds without a message after which a comment is sent, so that dead connections are noticed."""
_MIN_INTERVAL = 0.05
"""Seconds from one write to the next: messages that come faster are sent together."""
_LEVELS = {name: number for number, name in enumerate(("DEBUG", "INFO", "WARNING", "ERROR"))}
_LEVELS["CRITICAL"] = 4

Put = Callable[[Any], None]


@attrs.frozen
class _Follower:
    """A stream of Control that each viewer has with parameters of its own."""

    name: str
    """By which `lost` and `problem` name it."""
    method: str
    make_request: Callable[[Query], Any]
    make_put: Callable[[Outbox, Query], Put]


async def run_stream(
    stub: Any,
    topics: Mapping[str, Topic],
    nursery: trio.Nursery,
    mesh: Mapping[str, Any],
    query: Query,
    send: Send,
) -> None:
    """Send what a page wants, until cancelled.

    Args:
        stub: A stub of Control.
        topics: What all viewers see.
        nursery: Outlives the viewer: topics are collected in it.
        mesh: The first message, about the mesh.
        query: What the page wants; malformed parameters were refused by `check_query`.
        send: Sends a part of the body.
    """
    outbox = Outbox()
    await send(encode_message("mesh", {**mesh, "time": time.time()}))
    with ExitStack() as stack:
        for name, topic in topics.items():
            if query.get(name, "0") not in ("", "0"):
                stack.enter_context(topic.subscribed(outbox, nursery, stub))
        async with open_collapsing_nursery() as followers:
            for key, follower in _FOLLOWERS.items():
                if query.get(key, ""):
                    followers.start_soon(_follow, stub, follower, outbox, query)
            while True:
                data = await outbox.take_all(_KEEP_ALIVE)
                await send(data or b":\n\n")
                await trio.sleep(_MIN_INTERVAL)


def check_query(query: Query) -> None:
    """Raise HttpError if a parameter is malformed."""
    for key, follower in _FOLLOWERS.items():
        if query.get(key, ""):
            follower.make_request(query)


async def _follow(stub: Any, follower: _Follower, outbox: Outbox, query: Query) -> None:
    put = follower.make_put(outbox, query)
    try:
        async with getattr(stub, follower.method)(follower.make_request(query)) as call:
            async for message in call:
                put(message)
        problem = {"code": "UNAVAILABLE", "text": "the mesh has ended the stream"}
    except purerpc.RpcFailedError as exc:
        code = status_code_name(exc.status.int_value)
        problem = {"code": code, "text": exc.status.status_message}
    except Exception:
        _log.exception("following %s failed", follower.name)
        problem = {"code": "INTERNAL", "text": "the log of the mesh has the reason"}
    outbox.put("problem", encode_message("problem", {"stream": follower.name, **problem}))


def _put_events(outbox: Outbox, query: Query) -> Put:
    def put(event: Any) -> None:
        if event.missed:
            outbox.add_lost("event", event.missed)
        outbox.put("event", encode_message("event", to_json_value(event)))

    return put


def _put_history(outbox: Outbox, query: Query) -> Put:
    def put(update: Any) -> None:
        outbox.put("history", encode_message("history", to_json_value(update)))

    return put


def _put_logs(outbox: Outbox, query: Query) -> Put:
    least = _LEVELS.get(query.get("log_level", "").upper(), 0)

    def put(line: Any) -> None:
        if line.missed:
            outbox.add_lost("log", line.missed)
        if line.level and _LEVELS.get(line.level, 1) >= least:
            outbox.put("log", encode_message("log", to_json_value(line)))

    return put


def _put_calls(outbox: Outbox, query: Query) -> Put:
    def put(watched: Any) -> None:
        if watched.missed:
            outbox.add_lost("call", watched.missed)
        if watched.HasField("call") or watched.silent:
            outbox.put("call", encode_message("call", to_json_value(watched)))

    return put


_FOLLOWERS = {
    "events": _Follower("event", "WatchEvents", events_request, _put_events),
    "history": _Follower("history", "WatchHistory", history_request, _put_history),
    "logs": _Follower("log", "ReadLogs", logs_request, _put_logs),
    "tap": _Follower("call", "WatchCalls", calls_request, _put_calls),
}
"""By the parameters of the query that want them."""
