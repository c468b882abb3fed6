"""Calls over one connection that the test opened."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import attrs
import trio

from meshtrio.client.channel_endpoint import DEFAULT_PICK_ARGS, PickArgs, PickResult
from meshtrio.client.multicallable import make_multicallable
from meshtrio.client.retry.policy import RetryControl
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.errors import ConnectionLostError
from meshtrio.grpc.metadata import Metadata
from meshtrio.grpc.service_config import ServiceConfig
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.rpc.message_limits import MessageLengths
from meshtrio.rpc.method import Method
from meshtrio.rpc.purerpc_compat import StubChannel
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.tracer import ClientTracer
from meshtrio.transport.transport import Transport
from meshtrio.util.concurrency import open_collapsing_nursery


@attrs.frozen(eq=False)
class _DirectEndpoint:
    """What a failed attempt excludes from the next one."""

    endpoint: Endpoint


class DirectChannel:
    """Makes calls on a connection, which its owner runs and closes."""

    def __init__(
        self, connection: ClientConnection, authority: str, nursery: trio.Nursery | None = None
    ) -> None:
        """Make calls on `connection`; `nursery` is needed to send iterables of requests."""
        self.name = self.target = self.authority = authority
        self.picker: Any = self
        self.retry_control = RetryControl(Random())
        self.service_config = ServiceConfig()
        self.hash_header: str | None = None
        self.interceptors: tuple[Any, ...] = ()
        self.metadata: Metadata = ()
        self.tracer: ClientTracer | None = None
        self.call_counters = CallCounters()
        self.message_lengths = MessageLengths()
        endpoint: Any = _DirectEndpoint(Endpoint(authority, ""))
        self._pick_result = PickResult(connection, endpoint)
        self.nursery = nursery

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


class StubbableChannel(DirectChannel, StubChannel):
    """A channel over one connection that generated stubs can be made for."""

    def make_multicallable(self, method: Method) -> Any:
        return make_multicallable(self, method)


def channel_over_connection(connection: ClientConnection, authority: str = "x") -> DirectChannel:
    """A channel over one connection, whose calls are tasks of it."""
    return StubbableChannel(connection, authority, connection._nursery)


@asynccontextmanager
async def channel_over_socket(
    sock: socket.socket, authority: str = "localhost"
) -> AsyncIterator[DirectChannel]:
    """Speak gRPC as a client on a connected socket, which is taken over, for the block."""
    connection = ClientConnection(Transport(sock))
    async with open_collapsing_nursery() as nursery:
        await nursery.start(connection.run)
        try:
            yield channel_over_connection(connection, authority)
        finally:
            nursery.cancel_scope.cancel()
