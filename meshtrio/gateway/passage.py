"""One call that is passed on, from its head to its status.

While all goes well there is no task for it: each thing that comes on one leg is sent on the other
by the connection that has read it. A task is started to wait for an endpoint, before a refused call
is made again, and to learn how a plugin died.
"""

from __future__ import annotations

import math
from random import Random
from time import time
from typing import TYPE_CHECKING, Any

import purerpc
import trio

from meshtrio.client.channel import Channel
from meshtrio.client.endpoint import RECONNECT
from meshtrio.client.picker import ANY, Target, Wish
from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.gateway import blocks
from meshtrio.gateway.legs import CallerLeg, Leg, PluginLeg
from meshtrio.rpc.observe import CANCELLED, DEADLINE_EXCEEDED
from meshtrio.rpc.server import ServerConnection
from meshtrio.rpc.serving import own_status
from meshtrio.rpc.status import DEADLINE_SLACK, error_for_http_status, header_list_too_large
from meshtrio.rpc.tally import succeeded
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.heads import ResponseHead, Trailers

if TYPE_CHECKING:
    from meshtrio.gateway.gateway import Gateway, Plan
    from meshtrio.telemetry.metrics.calls import Calls

_MOST_KEPT = 256 * 1024
"""Bytes of a request that are kept to make a refused call again; one with more is committed."""

_SMALL = 4096
"""Bytes of a piece that more is joined to: a byte at a time shall not make an object of each."""
_MOST_UNREAD = 8 * 1024 * 1024
"""Bytes that may wait for a caller who does not read."""

_response_block = blocks.Memory(blocks.response_block)
_trailers_block = blocks.Memory(blocks.trailers_block)
_HEAD = blocks.response_block(
    ResponseHead(
        http_status=200,
        content_type="application/grpc",
        encoding="identity",
        metadata=(),
        trailers=None,
    )
)


class Passage:
    """Between the caller's leg and the plugin's, which there is once there is an endpoint."""

    __slots__ = (
        "_caller",
        "_calls",
        "_channel",
        "_counted",
        "_ended",
        "_gateway",
        "_kept",
        "_kept_size",
        "_plan",
        "_plugin",
        "_refusals",
        "_request_ended",
        "_since",
        "_target",
    )

    def __init__(self, gateway: Gateway, caller: CallerLeg, plan: Plan) -> None:
        self._gateway = gateway
        self._caller = caller
        self._plan = plan
        self._channel: Channel | None = None
        self._calls: Calls | None = None
        """Those of the channel's service, where calls are measured."""
        self._target: Target | None = None
        self._plugin: PluginLeg | None = None
        self._kept: list[bytes] | None = []
        """What the caller has sent; None once committed."""
        self._kept_size = 0
        self._request_ended = False
        """The caller has sent all it had."""
        self._refusals = 0
        self._counted = False
        """The channel counts it as under way."""
        self._since = trio.current_time()
        self._ended = False
        caller.passage = self

    @property
    def _ends(self) -> float:
        """When the caller's deadline is."""
        timeout = self._plan.head.timeout
        return math.inf if timeout is None else self._since + timeout

    @property
    def _is_late(self) -> bool:
        """Whether the deadline has passed, by a clock that caller and plugin do not share."""
        return trio.current_time() >= self._ends - DEADLINE_SLACK

    # -- finding an endpoint -----------------------------------------------------------------

    def begin(self) -> None:
        """Go on to an endpoint that is ready; where there is none, wait for one."""
        channel = self._gateway.channel_for(self._plan)
        try:
            if channel is not None:
                self._goes_to(channel)
                target = channel.pick_ready(self._wish(channel))
                if target is not None and self._open(channel, target):
                    # What else this read brings goes out with it.
                    self._caller.connection.passed_on.add(target.connection)
                    return
        except purerpc.RpcFailedError as exc:
            self._end_with(exc)
        else:
            self._caller.connection.spawn(self._begin_later)

    async def _begin_later(self) -> None:
        """Wait for an endpoint as long as the caller does."""
        try:
            with trio.CancelScope(deadline=self._ends) as scope:
                self._caller.on_failure = scope
                if self._caller.failure is None:
                    await self._find_endpoint()
        except purerpc.RpcFailedError as exc:
            self._end_with(exc)
        finally:
            self._caller.on_failure = None
        if scope.cancelled_caught:
            text = f"the deadline passed before {self._plan.what} could be called"
            why = None if self._channel is None else self._channel.trouble
            self._end_with(purerpc.DeadlineExceededError(f"{text}: {why}" if why else text))

    async def _find_endpoint(self) -> None:
        if self._refusals:
            await trio.sleep(RECONNECT.delay(self._refusals, Random()))
        channel = await self._gateway.open_channel_for(self._plan)
        if not self._ended:
            self._goes_to(channel)
        while True:
            target = await channel.pick(self._wish(channel))
            connection = target.connection
            while connection.usable:
                try:
                    if self._open(channel, target):
                        connection.flush()
                        return
                except purerpc.RpcFailedError:
                    connection.offer_room()  # Somebody else may have waited for it.
                    raise
                await connection.outbox.uncongested()
                await connection.wait_for_room()

    def _goes_to(self, channel: Channel) -> None:
        if self._channel is None:
            channel.calls.started += 1
            if self._gateway.measured is not None:
                self._calls = self._gateway.measured.begin(channel.name)
        self._channel = channel

    def _wish(self, channel: Channel) -> Wish:
        if channel.hash_header is None:
            return ANY
        values = [
            str(value) for key, value in self._plan.head.metadata if key == channel.hash_header
        ]
        return Wish(key=",".join(values) if values else None)

    def _open(self, channel: Channel, target: Target) -> bool:
        """Start the call on a connection; False where that has no room for it.

        Does nothing where the call has ended meanwhile.
        """
        connection = target.connection
        if self._ended:
            connection.offer_room()
            return True
        block = self._plan.block_for(channel, self._caller.peer)
        if self._plan.head.timeout is not None:
            block += blocks.timeout_block(self._ends - trio.current_time())
        limit = connection.engine.max_sent_header_list
        if block.size > limit:
            raise purerpc.ResourceExhaustedError(
                header_list_too_large("request", block.size, limit)
            )
        if not connection.has_room or connection.outbox.congested:
            return False
        if channel.counts:
            channel.enter()
        self._counted = channel.counts
        plugin = connection.start_as(PluginLeg, block.data)
        assert plugin is not None
        plugin.owner, plugin.passage = channel, self
        connection.tally.sent -= 1  # Its messages are not looked at, and not counted.
        channel.calls.last_started = connection.tally.last_started = time()
        self._target, self._plugin = target, plugin
        for data in self._kept or ():
            plugin.send_on(data)
        if self._request_ended:
            plugin.send_on(b"", b"")
        if self._kept_size and self._caller.allow_more():
            self._caller.connection.flush()
        return True

    # -- what the caller does ----------------------------------------------------------------

    def on_request_data(self, data: bytes, *, end: bool) -> None:
        if not data and not end:
            return
        self._request_ended = end
        if self._kept is not None:
            self._keep(data)
        if self._plugin is not None:
            self._plugin.send_on(data, b"" if end else None)
            self._caller.connection.passed_on.add(self._plugin.connection)
        self._count_request()

    def _count_request(self) -> None:
        """Count what is held of the request, and end the call if the caller has too much held."""
        size = self._kept_size if self._kept is not None else 0
        if self._plugin is not None:
            size += self._plugin.held_size
        budget = self._caller.count_received(size if size > _SMALL else 0)
        if budget:
            text = f"requests that plugins have not taken use up {budget} of the mesh"
            self._end_with(purerpc.ResourceExhaustedError(text), success=None)

    def _keep(self, data: bytes) -> None:
        assert self._kept is not None
        self._kept_size += len(data)
        if self._kept_size > _MOST_KEPT and self._plugin is not None:
            self._kept = None
        elif self._kept and len(self._kept[-1]) < _SMALL:
            self._kept[-1] += data
        else:
            self._kept.append(data)

    def on_caller_gone(self) -> None:
        self._caller.passage = None
        self._leave(DEADLINE_EXCEEDED if self._is_late else CANCELLED, success=None)

    @property
    def begun(self) -> bool:
        """Whether a plugin has the call, or has had it."""
        return self._plugin is not None or self._ended

    def refuse(self) -> None:
        """End the call with REFUSED_STREAM: nothing has processed it (RFC 9113 §8.7)."""
        caller = self._caller
        caller.passage = None
        if caller.on_failure is not None:
            caller.on_failure.cancel()
        self._leave(purerpc.StatusCode.UNAVAILABLE.value, success=None)
        caller.reset(ErrorCode.REFUSED_STREAM)

    def cut(self) -> None:
        """End a call that was not over in time when the mesh stopped."""
        self._end_with(purerpc.UnavailableError("the mesh stopped during the call"), success=None)

    # -- what the plugin does ----------------------------------------------------------------

    def on_response_head(self, head: ResponseHead) -> None:
        self._kept = None
        caller, block = self._caller, _response_block(head)
        if block.size > caller.connection.engine.max_sent_header_list:
            self._end_too_large(block.size)
        elif caller.connection.engine.can_send(caller.id):
            caller.connection.engine.send_headers(caller.id, block.data)
            caller.head_sent = True
            self._answer()

    def on_response_data(self, data: bytes) -> None:
        self._caller.send_on(data)
        self._answer()
        budget = self._caller.count_reply() if self._caller.held_size else ""
        if budget:
            # A message may be cut short by that: the status says why.
            self._caller.drop_held()
            text = f"replies that the caller does not read use up {budget} of the mesh"
            self._end_with(purerpc.ResourceExhaustedError(text), success=None)

    def on_response_end(self, trailers: Trailers | None) -> None:
        if trailers is None:
            self._end_with(self._without_status())
            return
        block = _trailers_block(trailers)
        room = self._caller.connection.engine.max_sent_header_list
        if not self._caller.head_sent:
            room -= _HEAD.size  # It goes out in the same block.
        if block.size > room:
            block = blocks.short_trailers_block(trailers, room)
        if block.size > room:
            self._end_too_large(block.size)
        else:
            self._end(block.data, trailers.code, success=trailers.code == 0)

    def _end_too_large(self, size: int) -> None:
        limit = self._caller.connection.engine.max_sent_header_list
        error = purerpc.ResourceExhaustedError(header_list_too_large("response", size, limit))
        self._end_with(error, success=None)

    def _without_status(self) -> purerpc.RpcFailedError:
        head = None if self._plugin is None else self._plugin.head
        if head is not None and head.http_status != 200:
            return error_for_http_status(head.http_status)
        return purerpc.UnknownError("the plugin ended the call without a status")

    def on_plugin_gone(self, failure: purerpc.RpcFailedError) -> None:
        if isinstance(failure, CallRefusedError) and not self._caller.head_sent:
            if self._ended:
                return
            self._refusals += 1
            self._forget_attempt(success=None)
            connection = self._caller.connection
            if self._kept is None:
                self.refuse()
            elif isinstance(connection, ServerConnection) and connection.refusing:
                connection.refuse_waiting()
            else:
                connection.spawn(self._begin_later)
        elif isinstance(failure, ConnectionLostError) and not self._ended:
            self._caller.connection.spawn(self._explain, failure)
        elif isinstance(failure, purerpc.CancelledError) and self._is_late:
            # Some servers (grpc-go) reset with CANCEL at the deadline.
            text = "the deadline passed in the plugin"
            self._end_with(purerpc.DeadlineExceededError(text))
        else:
            self._end_with(failure)

    async def _explain(self, failure: ConnectionLostError) -> None:
        """Tell the caller how the plugin died, if it did."""
        assert self._channel is not None
        assert self._target is not None
        explained: Any = await self._channel.explain(self._target, failure)
        self._end_with(explained)

    # -- both --------------------------------------------------------------------------------

    def on_room(self, leg: Leg) -> None:
        """A leg's peer has taken some of what was held: the other's may send more."""
        if leg is self._caller:
            self._caller.count_reply()
        else:
            self._count_request()
        if self._ended and leg is self._caller and not leg.held_size:
            self._let_go()
        other = self._caller if leg is self._plugin else self._plugin
        if other is not None and other.allow_more():
            other.connection.flush()

    def backlog(self, leg: Leg) -> int:
        """Bytes that came on a leg and have not gone out on the other."""
        if leg is self._plugin:
            return self._caller.held_size
        return self._kept_size if self._plugin is None else self._plugin.held_size

    def _answer(self) -> None:
        caller = self._caller.connection
        if self._plugin is not None:
            self._plugin.connection.passed_on.add(caller)
        if caller.outbox.size > _MOST_UNREAD:
            # Messages are held back long before: these are the heads and ends of very many calls.
            caller.shut("the answers are not read", ErrorCode.ENHANCE_YOUR_CALM)

    def _end_with(self, failure: purerpc.RpcFailedError, success: bool | None = False) -> None:
        """End the call with a status of our own; `success` as it is counted against the plugin."""
        code, message = failure.status.status_code, failure.status.status_message
        status = own_status(self._caller.connection, code, message)
        self._end(status, code.value, success=success)
        self._caller.connection.flush()

    def _end(self, trailers: bytes, code: int, *, success: bool | None) -> None:
        """Send the status behind what is held for the caller."""
        if self._ended:
            return
        caller = self._caller
        if not caller.head_sent:
            trailers = _HEAD.data + trailers
        caller.send_on(b"", trailers)
        self._answer()
        self._leave(code, success=success)
        if not caller.held_size:
            self._let_go()

    def _let_go(self) -> None:
        """All is said: the caller's stream is over, and nobody holds this any more."""
        self._caller.passage = None
        self._caller.reset(ErrorCode.NO_ERROR)

    def _leave(self, code: int, *, success: bool | None) -> None:
        if not self._ended:
            self._ended = True
            self._measure(code)
            calls, channel = self._caller.connection.tally, self._channel
            if success and channel is not None:
                calls.succeeded += 1
                channel.calls.succeeded += 1
            else:
                calls.end(failed=not success)
                if channel is not None:
                    channel.calls.end(failed=not success)
        self._kept = None
        self._forget_attempt(success=success)

    def _measure(self, code: int) -> None:
        measured = self._gateway.measured
        if measured is not None:
            calls = self._calls or measured.begin(None)
            measured.end(calls, code, trio.current_time() - self._since)

    def _forget_attempt(self, *, success: bool | None) -> None:
        """Cancel the call at the plugin, where it is not over; None: nothing is to be learned."""
        plugin, channel, target = self._plugin, self._channel, self._target
        self._plugin = None
        if plugin is None or channel is None or target is None:
            return
        plugin.passage = None
        if succeeded(plugin):
            plugin.connection.tally.received -= 1
        plugin.reset(ErrorCode.CANCEL)
        if self._counted:
            channel.leave()
        if channel.observes and success is not None:
            channel.record(target, success=success)
