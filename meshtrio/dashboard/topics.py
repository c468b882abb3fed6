"""What is collected once for all viewers while there is one: statistics, calls, services, nodes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import purerpc
import trio

from meshtrio.dashboard.control_client import ControlClient, to_refusal
from meshtrio.dashboard.json_messages import message_to_plain, to_json
from meshtrio.dashboard.requests_check import RefusedError
from meshtrio.dashboard.viewer import Viewer, make_event
from meshtrio.messages import control

_log = logging.getLogger("meshtrio.dashboard")

STATISTICS_INTERVAL = 2.0
"""Seconds. Reading /proc for 200 instances, and encoding them, takes a few dozen milliseconds."""
_SERVICES_INTERVAL = 2.0
_NODES_INTERVAL = 5.0
_RETRY_DELAY = 5.0

Publish = Callable[[str, dict[str, Any]], None]
"""Sends a snapshot, by the name of its topic, to all viewers who want it."""
Collect = Callable[[frozenset[str], Publish], Awaitable[None]]
"""Collects some topics of a source until cancelled."""


class Source:
    """Collects one or more topics, those that viewers want, for all of them."""

    def __init__(self, topics: Collection[str], collect: Collect, nursery: trio.Nursery) -> None:
        """Initialize; `collect` is run in the nursery, again whenever other topics are wanted."""
        self.topics = frozenset(topics)
        self._collect = collect
        self._nursery = nursery
        self._viewers: dict[Viewer, frozenset[str]] = {}
        self._wanted: frozenset[str] = frozenset()
        self._latest: dict[str, bytes] = {}
        self._scope = trio.CancelScope()

    @contextmanager
    def subscribed(self, viewer: Viewer, wanted: Collection[str]) -> Iterator[None]:
        """Send some of its topics to a viewer for the block."""
        topics = self.topics.intersection(wanted)
        self._viewers[viewer] = topics
        for name in topics & self._latest.keys():
            viewer.put_snapshot(name, self._latest[name])
        self._update()
        try:
            yield
        finally:
            del self._viewers[viewer]
            self._update()

    def _update(self) -> None:
        """Collect what is wanted now."""
        wanted = frozenset().union(*self._viewers.values())
        if wanted == self._wanted:
            return
        self._wanted = wanted
        self._latest = {name: each for name, each in self._latest.items() if name in wanted}
        self._scope.cancel()
        if wanted:
            self._scope = trio.CancelScope()
            self._nursery.start_soon(self._run, self._scope, wanted)

    async def _run(self, scope: trio.CancelScope, wanted: frozenset[str]) -> None:
        """Collect until cancelled; what fails is tried again, and viewers are told once."""
        problem = ""
        with scope:
            while True:
                try:
                    await self._collect(wanted, self._publish)
                    refused = RefusedError(503, "UNAVAILABLE", "the mesh has ended the stream")
                except purerpc.RpcFailedError as exc:
                    refused = to_refusal(exc)
                except RefusedError as exc:
                    refused = exc
                except Exception:
                    _log.exception("collecting %s failed", ", ".join(sorted(wanted)))
                    refused = RefusedError(500, "INTERNAL", "a bug; see the log of the mesh")
                if str(refused) != problem:
                    problem = str(refused)
                    for name in wanted:
                        value = {"stream": name, "code": refused.code, "text": problem}
                        self._send(name, make_event("problem", to_json(value)))
                await trio.sleep(_RETRY_DELAY)

    def _publish(self, name: str, value: dict[str, Any]) -> None:
        self._send(name, make_event(name, to_json(value)))

    def _send(self, name: str, event: bytes) -> None:
        self._latest[name] = event
        for viewer, topics in self._viewers.items():
            if name in topics:
                viewer.put_snapshot(name, event)


@contextmanager
def subscribed(
    sources: Collection[Source], viewer: Viewer, wanted: Collection[str]
) -> Iterator[None]:
    """Send the topics that a viewer wants for the block; names of others are ignored."""
    with ExitStack() as stack:
        for source in sources:
            if not source.topics.isdisjoint(wanted):
                stack.enter_context(source.subscribed(viewer, wanted))
        yield


def make_sources(client: ControlClient, nursery: trio.Nursery) -> list[Source]:
    """Return the sources of all topics."""
    services, nodes = control.ListServiceStatesRequest(), control.ListNodesRequest()
    collectors: Mapping[tuple[str, ...], Collect] = {
        ("statistics", "calls"): partial(_collect_statistics, client),
        ("services",): partial(_poll, client, "ListServiceStates", services, _SERVICES_INTERVAL),
        ("nodes",): partial(_poll, client, "ListNodes", nodes, _NODES_INTERVAL),
    }
    return [Source(topics, collect, nursery) for topics, collect in collectors.items()]


async def _collect_statistics(
    client: ControlClient, wanted: frozenset[str], publish: Publish
) -> None:
    request = control.WatchStatisticsRequest(
        interval=STATISTICS_INTERVAL, by_method="calls" in wanted
    )
    async with client.open_stream("WatchStatistics", request) as call:
        async for message in call:
            calls = make_calls(message)
            for field in ("methods", "gateway", "interval"):
                message.ClearField(field)
            if "statistics" in wanted:
                publish("statistics", message_to_plain(message))
            if "calls" in wanted and calls["interval"]:
                publish("calls", calls)


def make_calls(statistics: Any) -> dict[str, Any]:
    """Return the calls by method of a `Statistics` message, as pages get them. Pure."""
    interval = statistics.interval
    rows = []
    for via, methods in (("plugin", statistics.methods), ("gateway", statistics.gateway)):
        for each in methods:
            row = message_to_plain(each)
            ended = row.pop("ended")
            row["via"] = via
            row["rate"] = row.pop("started") / interval if interval else 0.0
            row["count"] = sum(ended.values())
            row["errors"] = {status: count for status, count in ended.items() if status != "OK"}
            rows.append(row)
    return {"time": statistics.time, "interval": interval, "rows": rows}


async def _poll(
    client: ControlClient,
    method: str,
    request: Any,
    interval: float,
    wanted: frozenset[str],
    publish: Publish,
) -> None:
    """Call a method again and again, and publish replies that differ from the one before."""
    (topic,) = wanted
    before = None
    while True:
        reply = await client.call(method, request)
        if reply != before:
            before = reply
            publish(topic, message_to_plain(reply))
        await trio.sleep(interval)
