"""What all viewers see of the mesh: collected and encoded once, and only while somebody looks."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import purerpc
import trio

from meshtrio.dashboard.json_messages import to_json_value
from meshtrio.dashboard.outbox import Outbox, encode_message
from meshtrio.grpc.status import status_code_name
from meshtrio.messages import control

_log = logging.getLogger("meshtrio.dashboard")

STATISTICS_INTERVAL = 2.0
"""Seconds from one sample of all instances to the next."""
_SERVICES_INTERVAL = 2.0
_NODES_INTERVAL = 5.0
_RETRY_DELAY = 1.0
"""Seconds after which a call is made again that has failed."""

Collect = Callable[[Any], AsyncIterator[Any]]


class Topic:
    """A snapshot that is sent to its subscribers again whenever it has changed."""

    def __init__(self, name: str, collect: Collect) -> None:
        """`collect(stub)` yields values for JSON, and may raise RpcFailedError."""
        self.name = name
        self._collect = collect
        self._outboxes: set[Outbox] = set()
        self._latest = b""
        self._scope: trio.CancelScope | None = None

    @contextmanager
    def subscribed(self, outbox: Outbox, nursery: trio.Nursery, stub: Any) -> Iterator[None]:
        """Send it to a viewer during the block; for the first one collecting begins."""
        self._outboxes.add(outbox)
        if self._latest:
            outbox.put_snapshot(self.name, self._latest)
        if self._scope is None:
            self._scope = trio.CancelScope()
            nursery.start_soon(self._run, self._scope, stub)
        try:
            yield
        finally:
            self._outboxes.discard(outbox)
            if not self._outboxes and self._scope is not None:
                self._scope.cancel()
                self._scope, self._latest = None, b""

    async def _run(self, scope: trio.CancelScope, stub: Any) -> None:
        with scope:
            while True:
                try:
                    async for value in self._collect(stub):
                        self._publish(value)
                except purerpc.RpcFailedError as exc:
                    _log.debug("%s: %s", self.name, exc)
                    problem = {"stream": self.name, "code": status_code_name(exc.status.int_value)}
                    problem["text"] = exc.status.status_message
                    for outbox in self._outboxes:
                        outbox.put_snapshot(
                            f"problem {self.name}", encode_message("problem", problem)
                        )
                except Exception:
                    # A bug: the others go on.
                    _log.exception("collecting %s failed", self.name)
                await trio.sleep(_RETRY_DELAY)

    def _publish(self, value: Any) -> None:
        message = encode_message(self.name, value)
        if message != self._latest:
            self._latest = message
            for outbox in self._outboxes:
                outbox.put_snapshot(self.name, message)


async def _collect_statistics(stub: Any) -> AsyncIterator[Any]:
    request = control.WatchStatisticsRequest(interval=STATISTICS_INTERVAL)
    async with stub.WatchStatistics(request) as call:
        async for reply in call:
            yield to_json_value(reply)


async def _collect_services(stub: Any) -> AsyncIterator[Any]:
    while True:
        yield to_json_value(await stub.ListServiceStates(control.ListServiceStatesRequest()))
        await trio.sleep(_SERVICES_INTERVAL)


async def _collect_nodes(stub: Any) -> AsyncIterator[Any]:
    while True:
        yield to_json_value(await stub.ListNodes(control.ListNodesRequest()))
        await trio.sleep(_NODES_INTERVAL)


def make_topics() -> dict[str, Topic]:
    """Return the topics by their names, which are those of the query and of the messages."""
    found: dict[str, Collect] = {
        "statistics": _collect_statistics,
        "services": _collect_services,
        "nodes": _collect_nodes,
    }
    return {name: Topic(name, collect) for name, collect in found.items()}
