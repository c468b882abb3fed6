"""What opens the upstream stream of a proxied call that cannot be opened at once.

A task waits for an endpoint, or until a call that an endpoint has refused may be sent again. It is
all that a proxied call ever starts before its upstream stream is open; a usual call has none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs
import purerpc
import trio

from meshtrio.client.channel import Channel
from meshtrio.client.channel_endpoint import PickResult
from meshtrio.client.retry.policy import RetryState
from meshtrio.errors import CallRefusedError
from meshtrio.gateway.call_watch import CallObserver
from meshtrio.gateway.route import Route
from meshtrio.grpc.headers import RequestHeaders
from meshtrio.rpc.connection import Connection


class ChannelProvider(Protocol):
    """What a proxied call needs of the router."""

    call_observer: CallObserver | None
    """Measures proxied calls; None if metrics are off and no client watches the calls."""
    current_time: Callable[[], float]
    """`trio.current_time`, or what it calls, which costs half as much."""

    def find_open_channel(self, route: Route) -> Channel | None:
        """Return the channel for a route if it is known and open."""

    async def open_channel(self, route: Route) -> Channel:
        """Find the destination of a route and open a channel to it.

        Raises:
            purerpc.RpcFailedError: There is no such destination, with the status for the client.
        """


class OpeningCall(Protocol):
    """The part of a proxied call that opens its upstream stream."""

    connection: Connection
    request: RequestHeaders
    deadline: float
    """The client's deadline, on trio's clock."""
    error: purerpc.RpcFailedError | None
    cancel_on_error: trio.CancelScope | None
    """The scope of the task that waits, which is cancelled if the client ends the call."""

    @property
    def is_over(self) -> bool:
        """Whether the outcome is recorded and no upstream stream is left."""

    def bind_channel(self, channel: Channel) -> None:
        """Send the call to an endpoint of this channel."""

    def open_upstream(self, channel: Channel, pick_result: PickResult) -> bool:
        """Send the call on a connection unless it is over; return False if there is no room."""

    def end_with_error(self, error: purerpc.RpcFailedError) -> None:
        """End the call with a status that the plugin has not sent."""


@attrs.define(eq=False)
class CallOpening:
    """Waits for an endpoint for one call, again after each refusal that allows a retry."""

    _call: OpeningCall
    _router: ChannelProvider
    _route: Route
    _channel: Channel | None = None
    _retry_state: RetryState | None = None
    """Transparent retries; made by the first refusal."""
    _retry_delay: float = 0.0
    """Seconds until the next attempt."""

    def start(self) -> None:
        """Start the task; it ends with the connection to the client."""
        self._call.connection.start_soon(self._run)

    def plan_retry(self, channel: Channel, error: CallRefusedError) -> bool:
        """Return whether a call that its upstream has refused may be sent again by `start`.

        Retry policies are left to the client (gRFC A6): this is for refusals alone.
        """
        if self._retry_state is None:
            self._retry_state = RetryState(None, channel.retry_control)
        self._channel = channel
        delay = self._retry_state.next_delay(error, None, trio.current_time())
        if delay is None:
            return False
        self._retry_delay = delay
        return True

    async def _run(self) -> None:
        """Wait for an endpoint until the client's deadline, and send the call there."""
        call = self._call
        try:
            with trio.CancelScope(deadline=call.deadline) as scope:
                call.cancel_on_error = scope
                if call.error is None:
                    await self._pick_and_open()
        except purerpc.RpcFailedError as exc:
            call.end_with_error(exc)
        finally:
            call.cancel_on_error = None
        if scope.cancelled_caught:
            call.end_with_error(self._make_deadline_error())

    async def _pick_and_open(self) -> None:
        if self._retry_delay:
            await trio.sleep(self._retry_delay)
        call, channel = self._call, await self._router.open_channel(self._route)
        self._channel = channel
        if not call.is_over:
            call.bind_channel(channel)
        while True:
            result = await channel.picker.pick(self._route.make_pick_args(channel, call.request))
            connection = result.connection
            while connection.is_usable:
                try:
                    if call.open_upstream(channel, result):
                        connection.flush()
                        return
                except purerpc.RpcFailedError:
                    connection.notify_stream_slot()  # Another call may wait for it.
                    raise
                await connection.write_buffer.wait_below_high_water()
                await connection.wait_for_stream_slot()

    def _make_deadline_error(self) -> purerpc.DeadlineExceededError:
        name = self._route.explicit_target or self._route.grpc_service
        text = f"the deadline passed before {name} could be called"
        reason = self._channel and self._channel.picker.unavailable_reason
        return purerpc.DeadlineExceededError(f"{text}: {reason}" if reason else text)
