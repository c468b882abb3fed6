"""What is collected once for all viewers, while there is one: statistics, services, nodes."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
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

Publish = Callable[[bytes], None]
"""Sends the JSON of a snapshot to all viewers of a topic."""


class Topic:
    """One of the things that are collected, and the viewers who want it."""

    def __init__(
        self, name: str, collect: Callable[[Publish], Awaitable[None]], nursery: trio.Nursery
    ) -> None:
        """Initialize.

        Args:
            name: Name of the topic's events.
            collect: Collects and publishes until it is cancelled.
            nursery: Where it is run.
        """
        self.name = name
        self._collect = collect
        self._nursery = nursery
        self._viewers: set[Viewer] = set()
        self._scope = trio.CancelScope()
        self._latest = b""

    @contextmanager
    def subscribed(self, viewer: Viewer) -> Iterator[None]:
        """Send the topic to a viewer for the block; collects while there is one."""
        self._viewers.add(viewer)
        if len(self._viewers) == 1:
            self._scope = trio.CancelScope()
            self._nursery.start_soon(self._run, self._scope)
        elif self._latest:
            viewer.put_snapshot(self.name, self._latest)
        try:
            yield
        finally:
            self._viewers.discard(viewer)
            if not self._viewers:
                self._scope.cancel()
                self._latest = b""

    async def _run(self, scope: trio.CancelScope) -> None:
        problem = ""
        with scope:
            while True:
                try:
                    await self._collect(self._publish)
                    refusal = RefusedError(503, "UNAVAILABLE", "the mesh has ended the stream")
                except purerpc.RpcFailedError as exc:
                    refusal = to_refusal(exc)
                except RefusedError as exc:
                    refusal = exc
                except Exception:
                    _log.exception("collecting %s failed", self.name)
                    refusal = RefusedError(500, "INTERNAL", "a bug; see the log of the mesh")
                if str(refusal) != problem:
                    problem = str(refusal)
                    value = {"stream": self.name, "code": refusal.code, "text": problem}
                    self._send(make_event("problem", to_json(value)))
                await trio.sleep(_RETRY_DELAY)

    def _publish(self, data: bytes) -> None:
        self._latest = make_event(self.name, data)
        self._send(self._latest)

    def _send(self, event: bytes) -> None:
        for viewer in self._viewers:
            viewer.put_snapshot(self.name, event)


def make_topics(client: ControlClient, nursery: trio.Nursery) -> dict[str, Topic]:
    """Return the topics by name."""

    async def collect_statistics(publish: Publish) -> None:
        request = control.WatchStatisticsRequest(interval=STATISTICS_INTERVAL)
        async with client.open_stream("WatchStatistics", request) as call:
            async for message in call:
                publish(to_json(message_to_plain(message)))

    async def collect_services(publish: Publish) -> None:
        request = control.ListServiceStatesRequest()
        await _poll(client, "ListServiceStates", request, _SERVICES_INTERVAL, publish)

    async def collect_nodes(publish: Publish) -> None:
        request = control.ListNodesRequest()
        await _poll(client, "ListNodes", request, _NODES_INTERVAL, publish)

    collectors = {
        "statistics": collect_statistics,
        "services": collect_services,
        "nodes": collect_nodes,
    }
    return {name: Topic(name, each, nursery) for name, each in collectors.items()}


async def _poll(
    client: ControlClient, method: str, request: Any, interval: float, publish: Publish
) -> None:
    """Call a method again and again, and publish replies that differ from the one before."""
    before = b""
    while True:
        data = to_json(message_to_plain(await client.call(method, request)))
        if data != before:
            before = data
            publish(data)
        await trio.sleep(interval)
