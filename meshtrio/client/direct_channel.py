"""Calls over one connection: no choice of endpoints, no config, no interceptors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from meshtrio.client.call_destination import DEFAULT_PICK_ARGS, PickArgs, PickResult
from meshtrio.client.retry.policy import RetryThrottle
from meshtrio.errors import ConnectionLostError
from meshtrio.grpc.metadata import Metadata
from meshtrio.grpc.service_config import ServiceConfig
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.rpc.message_limits import MessageLengths
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.tracer import ClientTracer

_DEFAULT_SERVICE_CONFIG = ServiceConfig()


class DirectChannel:
    """Picks the one connection there is."""

    def __init__(
        self, connection: ClientConnection, authority: str, nursery: trio.Nursery | None = None
    ) -> None:
        """`nursery` is for the senders of calls that stream."""
        self.name = self.authority = authority
        self.scheme = "http"
        self.service_config = _DEFAULT_SERVICE_CONFIG
        self.interceptors: tuple[Any, ...] = ()
        self.metadata: Metadata = ()
        self.target = authority
        self.tracer: ClientTracer | None = None
        self.call_counters = CallCounters()
        self.retry_throttle: RetryThrottle | None = None
        self.message_lengths = MessageLengths()
        self.hash_header: str | None = None
        self.wants_results = self.limits_in_flight = False
        self._pick_result = PickResult(connection, None)
        self._nursery = nursery

    def try_pick(self, args: PickArgs = DEFAULT_PICK_ARGS) -> PickResult | None:
        return self._pick_result if self._pick_result.connection.is_usable else None

    async def pick(self, args: PickArgs = DEFAULT_PICK_ARGS) -> PickResult:
        """Raises ConnectionLostError once the connection is gone."""
        if not self._pick_result.connection.is_usable:
            raise ConnectionLostError(self._pick_result.connection.close_reason)
        return self._pick_result

    async def describe_failure(
        self, pick_result: PickResult, failure: ConnectionLostError
    ) -> Exception:
        return failure

    def start_soon(self, task: Callable[..., Any], *args: object) -> None:
        assert self._nursery is not None, "calls that stream need a nursery"
        self._nursery.start_soon(task, *args)

    def report_result(self, pick_result: PickResult, *, success: bool) -> None:
        """Nobody wants to know."""

    def acquire_slot(self) -> None:
        """There are no bounds."""

    def release_slot(self) -> None:
        """There are no bounds."""

    def deposit_retry_budget(self) -> None:
        """There is no budget."""

    def withdraw_retry_budget(self) -> bool:
        return True
