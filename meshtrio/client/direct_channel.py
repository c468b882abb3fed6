"""A call destination over one connection: no endpoints, no service config, no interceptors."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import trio

from meshtrio.client.call_destination import DEFAULT_PICK_ARGS, PickArgs, Picker, PickResult
from meshtrio.client.retry.policy import RetryControl
from meshtrio.errors import ConnectionLostError
from meshtrio.grpc.metadata import Metadata
from meshtrio.grpc.service_config import ServiceConfig
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.rpc.message_limits import MessageLengths
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.tracer import ClientTracer


class DirectChannel:
    """Makes calls on a connection, which its owner runs and closes."""

    def __init__(
        self, connection: ClientConnection, authority: str, nursery: trio.Nursery | None = None
    ) -> None:
        """Make calls on `connection`; `nursery` is needed to send iterables of requests."""
        self.name = self.target = self.authority = authority
        self.scheme = "http"
        self.picker: Picker = self
        self.retry_control = RetryControl(Random())
        self.service_config = ServiceConfig()
        self.hash_header: str | None = None
        self.interceptors: tuple[Any, ...] = ()
        self.metadata: Metadata = ()
        self.tracer: ClientTracer | None = None
        self.call_counters = CallCounters()
        self.message_lengths = MessageLengths()
        self._pick_result = PickResult(connection, None)
        self._nursery = nursery

    def try_pick(self, args: PickArgs = DEFAULT_PICK_ARGS) -> PickResult | None:
        return self._pick_result if self._pick_result.connection.is_usable else None

    async def pick(self, args: PickArgs = DEFAULT_PICK_ARGS) -> PickResult:
        """Return the connection.

        Raises:
            ConnectionLostError: It takes no more calls.
        """
        if not self._pick_result.connection.is_usable:
            raise ConnectionLostError(self._pick_result.connection.close_reason)
        return self._pick_result

    async def describe_failure(
        self, pick_result: PickResult, failure: ConnectionLostError
    ) -> ConnectionLostError:
        return failure

    def start_soon(self, task: Callable[..., Any], *args: object) -> None:
        assert self._nursery is not None, "calls that stream need a nursery"
        self._nursery.start_soon(task, *args)
