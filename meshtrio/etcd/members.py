"""The members of a cluster: calls to one of them, and which of them is preferred."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import purerpc
import trio

from meshtrio.client.channel import Channel
from meshtrio.client.multicallable import make_multicallable
from meshtrio.client.streaming import StreamingCall
from meshtrio.etcd.errors import EtcdError, EtcdUnavailableError, error_from_status
from meshtrio.grpc.metadata import Metadata
from meshtrio.messages import etcd as messages
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor

CALL_TIMEOUT = 5.0
"""Seconds after which a member that has not answered is left for another one.

Longer than an election takes with etcd's defaults (1 to 2 s), after which calls are answered.
"""

METHODS = {
    method.name: method_from_descriptor(method)
    for service in messages.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""The methods of all services by name, which is unique."""


class Member:
    """One member of the cluster, and the channel to it."""

    def __init__(self, url: str, channel: Channel) -> None:
        self.url = url
        """Its endpoint as the user wrote it."""
        self._channel = channel
        self._callables: dict[str, Callable[..., Any]] = {}

    def _get_callable(self, method: str) -> Callable[..., Any]:
        found = self._callables.get(method)
        if found is None:
            found = self._callables[method] = make_multicallable(self._channel, METHODS[method])
        return found

    async def call(self, operation: str, method: str, request: Any, metadata: Metadata = ()) -> Any:
        """Call a unary method, within the caller's deadline.

        Raises:
            EtcdError: It failed.
        """
        call = self._get_callable(method)
        try:
            return await call(request, metadata=metadata, wait_for_ready=False)
        except purerpc.RpcFailedError as exc:
            raise self.make_error(exc, operation) from None

    def make_error(self, error: purerpc.RpcFailedError, operation: str) -> EtcdError:
        """Return the error for a call that ended with a status other than OK."""
        return error_from_status(error, operation, self.url, self._channel.name)

    def start_stream(self, method: str, metadata: Metadata) -> StreamingCall:
        """Start a bidirectional call, for `async with`."""
        call = self._get_callable(method)(metadata=metadata, wait_for_ready=False)
        assert isinstance(call, StreamingCall)
        return call

    async def wait_connected(self, operation: str) -> None:
        """Wait for a connection, so that the start of a stream needs no deadline.

        gRPC would send the deadline along, and the member end the stream when it passes.

        Raises:
            EtcdUnavailableError: There is none within `CALL_TIMEOUT`.
        """
        with trio.move_on_after(CALL_TIMEOUT):
            if await self._channel.is_reachable():
                return
            reason = self._channel.picker.unavailable_reason or "it is not reachable"
            raise EtcdUnavailableError(operation, reason, member=self.url)
        raise self.make_timeout_error(operation, CALL_TIMEOUT)

    def make_timeout_error(self, operation: str, timeout: float) -> EtcdUnavailableError:
        """Return the error for a call that was not answered within `timeout` seconds.

        A connection on which nothing at all was received for `CALL_TIMEOUT` is closed, and opened
        again. Otherwise it is the call that is slow, as during an election.
        """
        for endpoint in self._channel.picker.endpoints:
            if (connection := endpoint.subchannel.connection) is not None:
                connection.close_if_silent(trio.current_time() - CALL_TIMEOUT)
        reason = f"no answer within {timeout:g} s"
        return EtcdUnavailableError(operation, reason, member=self.url)


class Members:
    """All members, in an order that starts with the preferred one."""

    def __init__(self, members: Sequence[Member], preferred: int) -> None:
        self._members = tuple(members)
        self._preferred = preferred % len(self._members)

    @property
    def preferred(self) -> Member:
        """The member to call first."""
        return self._members[self._preferred]

    def in_order(self) -> tuple[Member, ...]:
        """Return all members, the preferred one first."""
        return self._members[self._preferred :] + self._members[: self._preferred]

    def prefer(self, member: Member) -> None:
        """Call this member first from now on, since it has answered."""
        self._preferred = self._members.index(member)

    def leave(self, member: Member) -> None:
        """Call the next one first, unless another one is preferred to this already."""
        if self.preferred is member:
            self._preferred = (self._preferred + 1) % len(self._members)


class MemberStream:
    """A bidirectional call to a member, whose errors are those of etcd."""

    def __init__(self, member: Member, operation: str, call: StreamingCall) -> None:
        self.member = member
        self._operation = operation
        self._call = call

    async def send(self, request: Any) -> None:
        """Send a request. Does nothing once the call is over, as `receive` reports."""
        await self._call.send_message(request)

    async def receive(self, timeout: float) -> Any:  # noqa: ASYNC109 - of the member, not the call
        """Return the next response.

        Raises:
            EtcdError: The call failed or ended.
            EtcdUnavailableError: There is no response within `timeout` seconds. The call is over.
        """
        operation, member = self._operation, self.member
        with trio.move_on_after(timeout):
            try:
                response = await self._call.receive_message()
            except purerpc.RpcFailedError as exc:
                raise member.make_error(exc, operation) from None
            if response is None:
                raise EtcdUnavailableError(operation, "it ended the call", member=member.url)
            return response
        raise member.make_timeout_error(operation, timeout)
