"""Streaming calls: objects rather than async generators, so that leaving a loop ends the call.

A `StreamingCall` is a state machine:

    IDLE --> STARTING --> OPEN --> COMMITTED --> FINISHED

An attempt may be replaced by another until the first reply arrives (gRFC A6); `run_attempts` does
so while the caller waits for that reply. Requests come from one of three sources: a single message,
an iterable (sent by a `RequestStream`), or `send_message`, in which case the call is not
replayable.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import Any, Self, TypeVar

import attrs
import purerpc
import trio

from meshtrio.client.attempt import Attempt
from meshtrio.client.call_destination import CallContext, call_status_for, make_timeout_error
from meshtrio.client.interceptors import InterceptorTask, make_client_call
from meshtrio.client.request_stream import RequestStream
from meshtrio.client.retry.loop import run_attempts
from meshtrio.grpc.metadata import Metadata
from meshtrio.grpc.status import STATUS_OK, CallStatus
from meshtrio.rpc.method import Message
from meshtrio.rpc.tracer import ClientCallTracer
from meshtrio.rpc.tracer_dispatch import notify_tracer, notify_tracer_in_read_loop, start_tracer
from meshtrio.util.errors import unwrap_exception_group
from meshtrio.util.no_public_constructor import NoPublicConstructor

T = TypeVar("T")


class CallState(Enum):
    """State of a streaming call."""

    IDLE = "idle"
    """Not used yet: nothing was sent or counted."""
    STARTING = "starting"
    """Interceptors are being entered, and the first attempt opened."""
    OPEN = "open"
    """An attempt is under way, and may still be replaced by a retry."""
    COMMITTED = "committed"
    """A reply has arrived: there are no more retries."""
    FINISHED = "finished"
    """The call has ended, by its status or from this side. Final."""


TRANSITIONS = {
    CallState.IDLE: (CallState.STARTING, CallState.FINISHED),
    CallState.STARTING: (CallState.OPEN, CallState.FINISHED),
    CallState.OPEN: (CallState.OPEN, CallState.COMMITTED, CallState.FINISHED),
    CallState.COMMITTED: (CallState.FINISHED,),
    CallState.FINISHED: (CallState.FINISHED,),
}
"""The states that may follow each. A retry leads from OPEN to OPEN; `cancel` may be repeated."""

# Looking up a member of an Enum costs more than the rest of the check that each reply needs.
_IDLE, _COMMITTED, _FINISHED = CallState.IDLE, CallState.COMMITTED, CallState.FINISHED


class StreamingCall(AsyncIterator[Any], metaclass=NoPublicConstructor):
    """A call of a method that streams requests, replies or both.

        async for reply in stub.ServerStream(request): ...
        async for reply in stub.BothStream(requests): ...

        async with stub.BothStream() as call:
            await call.send_message(request)
            reply = await call.receive_message()

    The call starts with its first use. It ends with its last reply, or is cancelled when the
    `async with` block is left and when a task that waits for it is cancelled. Use `async with` for
    a loop that may be left early: a call that is dropped while it is under way is reported by a
    ResourceWarning, and ended when the collector finds it. One task may send while another
    receives.
    """

    _made_by = "the streaming methods of a stub return calls"

    def __init__(
        self,
        call: CallContext,
        messages: AsyncIterable[Message] | None,
        single_message: Message | None,
    ) -> None:
        """Not public: a stub's methods make calls.

        Args:
            call: What the attempts of the call share.
            messages: Requests to send while replies are received.
            single_message: The only request. Without it and `messages`, `send_message` sends them.
        """
        self.state = CallState.IDLE
        """State of the call."""
        self._call = call
        self._single_message = single_message
        self._request_stream = None if messages is None else RequestStream(messages)
        self._attempt: Attempt | None = None
        self._interceptor_task: InterceptorTask | None = None
        self._config_deadline = math.inf
        """When the timeout of the method config passes, on trio's clock; set by the first step."""
        self._open_lock = trio.Lock()
        self._trio_token = trio.lowlevel.current_trio_token()

    def __repr__(self) -> str:
        call = self._call
        return f"<StreamingCall {call.method.path} to {call.channel.name}: {self.state.value}>"

    def _advance(self, state: CallState) -> None:
        assert state in TRANSITIONS[self.state]
        self.state = state

    # -- starting ----------------------------------------------------------------------------

    async def _ensure_started(self) -> Attempt:
        if self._attempt is None:
            async with self._open_lock:
                if self.state is _FINISHED:
                    raise purerpc.CancelledError("the call was cancelled on this side")
                if self._attempt is None:
                    try:
                        await self._start()
                    except BaseException as exc:
                        self._finish(call_status_for(exc), failed=True)
                        raise
        assert self._attempt is not None
        return self._attempt

    async def _start(self) -> None:
        self._advance(CallState.STARTING)
        call = self._call
        channel = call.channel
        channel.call_counters.started += 1
        if call.start_tracing is not None:
            call.tracer = start_tracer(call.start_tracing, ClientCallTracer)
        if channel.interceptors:
            client_call = make_client_call(call)
            self._interceptor_task = InterceptorTask(channel.interceptors, client_call)
            channel.nursery.start_soon(self._interceptor_task.run)
            await self._interceptor_task.wait_entered()
            call.options = attrs.evolve(call.options, metadata=client_call.metadata)
        if call.config.retry_policy is not None:
            channel.retry_control.budget.deposit(trio.current_time())
        await self._use_attempt(await Attempt.open(call))
        if self._request_stream is not None:
            channel.nursery.start_soon(self._request_stream.run)

    async def _use_attempt(self, attempt: Attempt) -> None:
        """Send to and receive from `attempt` from now on."""
        if self.state is _FINISHED:  # By `cancel` in another task.
            attempt.end()
            raise purerpc.CancelledError("the call was cancelled on this side")
        self._attempt = attempt
        self._advance(CallState.OPEN)
        if self._interceptor_task is not None:
            self._interceptor_task.call.attempt = attempt
        if self._single_message is not None:
            await attempt.send(self._single_message.SerializeToString(), end_stream=True)
            return
        # The first request may take long, and the server may be the first to send.
        connection = attempt.pick_result.connection
        connection.flush()
        connection.counters.streamed_requests += 1
        if self._request_stream is not None:
            await self._request_stream.attach(attempt)

    async def _run_with_timeout(self, step: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Run a step of the call within the timeout of its method config, counted from the first.

        Raises:
            DeadlineExceededError: The timeout has passed.
        """
        seconds = self._call.config.timeout
        if seconds is None:  # A cancel scope takes longer than the rest of a step.
            return await step(*arguments)
        if self._config_deadline == math.inf:
            self._config_deadline = trio.current_time() + seconds
        with trio.CancelScope(deadline=self._config_deadline):
            return await step(*arguments)
        self.cancel()
        raise make_timeout_error(seconds)

    # -- sending -----------------------------------------------------------------------------

    async def send_message(self, message: Message, *, compress: bool = True) -> None:
        """Send a request, waiting until the peer's flow control admits it.

        Does nothing once the call is over; `receive_message` raises its status.

        Args:
            message: The request.
            compress: If False, it is sent uncompressed in spite of the call's `compression`.

        Raises:
            RpcFailedError: The call could not be started, or the message is too large.

        Cancellation: ends the call, since part of the message may have been sent.
        """
        await self._run_with_timeout(self._send, message, compress)

    async def _send(self, message: Message, compress: bool) -> None:
        attempt = self._attempt or await self._ensure_started()
        await attempt.send(message.SerializeToString(), compress=compress)

    async def close(self) -> None:
        """Half-close: there are no more requests. Replies may still be received."""
        await (await self._ensure_started()).stream.send_end_stream()

    # -- receiving ---------------------------------------------------------------------------

    @property
    def initial_metadata(self) -> Metadata | None:
        """Metadata of the response headers, None until they arrive."""
        return None if self._attempt is None else self._attempt.initial_metadata

    @property
    def trailing_metadata(self) -> Metadata | None:
        """Metadata of the trailers, None until they arrive."""
        return None if self._attempt is None else self._attempt.trailing_metadata

    async def receive_message(self) -> Any:
        """Return the next reply, or None after the last.

        Raises:
            RpcFailedError: The call failed.
            Exception: Whatever the iterable of requests raised.

        Cancellation: ends the call.
        """
        try:
            reply = None
            if self.state is _COMMITTED and self._call.config.timeout is None:
                await trio.lowlevel.checkpoint_if_cancelled()
                assert self._attempt is not None
                reply = self._attempt.try_receive()
            if reply is None:
                reply = await self._run_with_timeout(self._receive)
        except BaseException as exc:
            if self._interceptor_task is not None and isinstance(exc, Exception):
                exc = await self._interceptor_task.exit_and_wait(exc) or exc
            self._finish(call_status_for(exc), failed=True)
            if self._request_stream is None or self._request_stream.error is None:
                raise exc from exc.__cause__
            if isinstance(exc, trio.Cancelled):
                raise
            raise unwrap_exception_group(self._request_stream.error) from None
        if reply is None and self.state is not _FINISHED:
            await self._finish_successfully()
        return reply

    async def _receive(self) -> Any:
        attempt = self._attempt or await self._ensure_started()
        if self.state is _COMMITTED or self.state is _FINISHED:
            return await attempt.receive()
        first, check = self._receive_first, self._check_replayable
        return (await run_attempts(self._call, first, attempt, check))[0]

    async def _receive_first(self, attempt: Attempt) -> Any:
        if attempt is not self._attempt:
            await self._use_attempt(attempt)
        reply = await attempt.receive()
        if self.state is not _FINISHED:
            self._advance(_COMMITTED)
        if self._request_stream is not None:
            self._request_stream.commit()
        return reply

    def _check_replayable(self) -> bool:
        """Whether all requests can be sent again; those of `send_message` cannot."""
        if self.state is _FINISHED:
            return False
        requests = self._request_stream
        return self._single_message is not None or (
            requests is not None and requests.is_replayable and requests.error is None
        )

    async def receive_single(self) -> Any:
        """Return the reply of a method that has one."""
        reply = await self.receive_message()
        if reply is None:
            raise purerpc.UnimplementedError("the call succeeded with no reply instead of one")
        if await self.receive_message() is not None:
            raise purerpc.UnimplementedError("the call succeeded with more replies than one")
        return reply

    async def __anext__(self) -> Any:
        reply = await self.receive_message()
        if reply is None:
            raise StopAsyncIteration
        return reply

    # -- ending ------------------------------------------------------------------------------

    def cancel(self) -> None:
        """End the call now, and cancel its handler. Does nothing if it is over."""
        self._finish(None, failed=True)

    async def _finish_successfully(self) -> None:
        throttle = self._call.channel.retry_control.throttle
        if throttle is not None:
            throttle.on_success()
        error = None
        if self._interceptor_task is not None:
            error = await self._interceptor_task.exit_and_wait(None)
        status = STATUS_OK if error is None else call_status_for(error)
        self._finish(status, failed=error is not None)
        if error is not None:
            raise error

    def _finish(
        self,
        status: CallStatus | None,
        *,
        failed: bool,
        notify: Callable[..., None] = notify_tracer,
    ) -> None:
        """End the call; `status` is reported to the tracer, None if it was cancelled here."""
        state, call, attempt = self.state, self._call, self._attempt
        self._advance(_FINISHED)
        if state is _FINISHED or state is _IDLE:
            return
        call.channel.call_counters.end_call(failed=failed)
        if self._interceptor_task is not None:
            self._interceptor_task.request_exit()
        if self._request_stream is not None:
            self._request_stream.cancel_scope.cancel()
        if attempt is not None:
            if attempt.stream.has_succeeded:
                attempt.pick_result.connection.counters.streamed_replies += 1
            attempt.end()
        if call.tracer is not None:
            notify(call.method.path, call.tracer.call_ended, status)

    async def aclose(self) -> None:
        """Cancel the call, for `contextlib.aclosing`."""
        self.cancel()
        await trio.lowlevel.checkpoint()

    def __await__(self) -> Generator[Any, Any, StreamingCall]:
        """Start the call now: `call = await stub.Method()`, as with purerpc."""
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        await self._run_with_timeout(self._ensure_started)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.cancel()

    def __del__(self) -> None:
        state = getattr(self, "state", _FINISHED)
        if state is _IDLE or state is _FINISHED:
            return
        # The collector may run in any thread, and in the middle of anything. The call lives on
        # until the event loop has ended it.
        end = partial(self._finish, None, failed=True, notify=notify_tracer_in_read_loop)
        with suppress(trio.RunFinishedError):
            self._trio_token.run_sync_soon(end)
        warnings.warn(
            f"{self!r} was dropped: use `async with` for a call that may be left early",
            ResourceWarning,
            source=self,
            stacklevel=2,
        )
