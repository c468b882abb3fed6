"""Calls with streams: plain objects rather than async generators, so that leaving a loop early, by
any way, ends the call at once.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator
from random import Random
from types import TracebackType
from typing import Any, Self, TypeVar

import attrs
import purerpc
import trio

from meshtrio.client.attempt import Attempt
from meshtrio.client.call_destination import DEFAULT_OPTIONS, CallDestination, CallOptions
from meshtrio.client.call_status import call_status_for
from meshtrio.client.interceptors import InterceptorTask, make_client_call
from meshtrio.client.request_headers import encode_method_headers
from meshtrio.client.request_stream import RequestStream
from meshtrio.client.retry.policy import RetryState
from meshtrio.client.unary import make_pick_args, make_timeout_error, next_retry_delay
from meshtrio.discovery.endpoint import RECONNECT_BACKOFF
from meshtrio.errors import CallRefusedError, unwrap_exception_group
from meshtrio.grpc.compression import IDENTITY
from meshtrio.grpc.metadata import Metadata
from meshtrio.grpc.service_config import MethodConfig
from meshtrio.grpc.status import STATUS_OK
from meshtrio.rpc.composite_tracer import (
    start_attempt_tracer,
    start_client_call_tracer,
    start_method_tracer,
)
from meshtrio.rpc.method import Message, MetadataLike, Method
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.tracer import ORIGINAL, RETRY, TRANSPARENT_RETRY, ClientCallTracer
from meshtrio.rpc.tracer_dispatch import notify_tracer, notify_tracer_in_read_loop

T = TypeVar("T")


class StreamUnaryMultiCallable:
    """`reply = await stub.Method(requests, metadata=…)`, `requests` an async iterable."""

    def __init__(self, channel: CallDestination, method: Method) -> None:
        self._channel = channel
        self._method = method

    async def __call__(
        self,
        messages: AsyncIterable[Message],
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> Any:
        """Call, sending while waiting for the reply; raises what `messages` raises.

        `wait` and `policy` are as for calls with one request.
        """
        options = CallOptions.create(metadata, compression, wait_for_ready, method_config)
        async with StreamingCall(self._channel, self._method, options, messages) as call:
            return await call._receive_single()

    def start(
        self,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> StreamingCall:
        """A `StreamingCall` to send the requests of one by one, and then `receive_message` once."""
        options = CallOptions.create(metadata, compression, wait_for_ready, method_config)
        return StreamingCall(self._channel, self._method, options)


class StreamingCall(AsyncIterator[Any]):
    """A call under way, for the methods that stream.

        async for reply in stub.ServerStream(request): ...
        async for reply in stub.BothStream(requests): ...

        async with stub.BothStream() as call:
            await call.send_message(request)
            reply = await call.receive_message()

    It starts with its first use. It is cancelled when the block is left, when the object is
    dropped (by `break`, say), and with the task that waits on it. One task may send while
    another receives.
    """

    def __init__(
        self,
        channel: CallDestination,
        method: Method,
        options: CallOptions = DEFAULT_OPTIONS,
        messages: AsyncIterable[Message] | None = None,
        *,
        single_message: Message | None = None,
    ) -> None:
        """`messages` are sent while replies are received; `single` is the only one."""
        self._channel = channel
        self._method = method
        self._options = options
        self._request_stream = None if messages is None else RequestStream(messages)
        self._single_message = single_message
        self._attempt: Attempt | None = None
        self._method_config = options.method_config or channel.service_config.get_method_config(
            method.service, method.name
        )
        self._retry_state: RetryState | None = None
        self._pick_args = make_pick_args(options, self._method_config)
        self._interceptor_task: InterceptorTask | None = None
        self._call_tracer: ClientCallTracer | None = None
        self._attempt_kind = ORIGINAL
        self._config_deadline = math.inf
        """When the time is over that the service's config gives it."""
        self._call_counters: CallCounters | None = None
        """Where it is counted as started and has still to be counted as ended."""
        self._is_sending = self._budget_deposited = False
        self._open_lock = trio.Lock()
        self._is_cancelled = False
        self._trio_token = trio.lowlevel.current_trio_token()

    async def _ensure_started(self) -> Attempt:
        if self._attempt is None:
            async with self._open_lock:
                if self._is_cancelled:
                    raise purerpc.CancelledError("the call was cancelled on this side")
                if self._attempt is None:
                    try:
                        await self._start()
                    except BaseException as exc:
                        self._finish(exc)
                        raise
        assert self._attempt is not None
        return self._attempt

    async def _start(self) -> None:
        if self._call_counters is None:
            self._call_counters = self._channel.call_counters
            self._call_counters.started += 1
        if self._channel.tracer is not None and self._call_tracer is None:
            target = self._channel.target
            self._call_tracer = start_client_call_tracer(
                start_method_tracer(self._channel.tracer, target, self._method)
            )
        if self._channel.interceptors and self._interceptor_task is None:
            call = make_client_call(self._channel, self._method, self._options)
            self._interceptor_task = InterceptorTask(self._channel.interceptors, call)
            self._channel.start_soon(self._interceptor_task.run)
            await self._interceptor_task.wait_entered()
            self._options = attrs.evolve(self._options, metadata=tuple(call.metadata))
        if not self._budget_deposited and self._method_config.retry_policy is not None:
            self._budget_deposited = True
            self._channel.deposit_retry_budget()
        block = encode_method_headers(self._method, self._channel)
        previous = 0 if self._retry_state is None else self._retry_state.attempts - 1
        self._attempt = attempt = await Attempt.open(
            self._channel,
            self._method,
            block,
            self._options,
            previous_attempts=previous,
            pick_args=self._pick_args,
            tracer=None
            if self._call_tracer is None
            else start_attempt_tracer(self._call_tracer, self._attempt_kind, previous),
            message_limits=self._channel.message_lengths.resolve_limits(self._method_config),
        )
        if self._interceptor_task is not None:
            self._interceptor_task.call.attempt = attempt
        if self._single_message is not None:
            await attempt.send(self._single_message, end_stream=True)
            return
        # The first request may be long in coming, and the server may be the first to speak.
        attempt.pick_result.connection.flush()
        attempt.pick_result.connection.counters.streamed_requests += 1
        if self._request_stream is not None:
            await self._request_stream.attach(attempt)
            if not self._is_sending:
                self._is_sending = True
                self._channel.start_soon(self._request_stream.run)

    # -- sending -----------------------------------------------------------------------------

    async def send_message(self, message: Message, *, compress: bool = True) -> None:
        """Send a request, waiting for the peer to take it. Does nothing once the call is over.

        `compress=False` sends it as it is, in spite of the call's `compression`.
        """
        await self._run_with_timeout(self._send, message, compress)

    async def _send(self, message: Message, compress: bool) -> None:
        await (self._attempt or await self._ensure_started()).send(message, compress=compress)

    async def _run_with_timeout(self, step: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Do something in the time that the service's config gives the call, from its start."""
        seconds = self._method_config.timeout
        if seconds is None:  # A scope takes longer than what is done for a message.
            return await step(*arguments)
        if self._config_deadline == math.inf:
            self._config_deadline = trio.current_time() + seconds
        with trio.CancelScope(deadline=self._config_deadline):
            return await step(*arguments)
        self.cancel()
        raise make_timeout_error(seconds)

    async def close(self) -> None:
        """End the requests, as purerpc's streams do; replies may still be received."""
        await (await self._ensure_started()).stream.send_end_stream()

    # -- receiving ---------------------------------------------------------------------------

    @property
    def initial_metadata(self) -> Metadata | None:
        """What came with the head of the reply, None before it came."""
        return None if self._attempt is None else self._attempt.initial_metadata

    @property
    def trailing_metadata(self) -> Metadata | None:
        """What came with the status, None before it came."""
        return None if self._attempt is None else self._attempt.trailing_metadata

    async def receive_message(self) -> Any:
        """Take the next reply, None after the last; raises the status of a call that failed.

        When cancelled, the call is cancelled with it.
        """
        try:
            reply = await self._run_with_timeout(self._receive)
        except BaseException as exc:
            if self._interceptor_task is not None and isinstance(exc, Exception):
                exc = await self._interceptor_task.exit_and_wait(exc) or exc
            self._finish(exc)
            if self._request_stream is None or self._request_stream.error is None:
                raise exc from exc.__cause__
            if isinstance(exc, trio.Cancelled):
                raise
            raise unwrap_exception_group(self._request_stream.error) from None
        if reply is None:
            if self._channel.retry_throttle is not None:
                self._channel.retry_throttle.on_success()
            error = (
                None
                if self._interceptor_task is None
                else await self._interceptor_task.exit_and_wait(None)
            )
            self._finish(error)
            if error is not None:
                raise error
        return reply

    async def _receive(self) -> Any:
        """Take the next reply; a call whose reply has not begun may be made again first."""
        refusals = 0
        while True:
            attempt = await self._ensure_started()
            try:
                reply = await attempt.receive()
                if self._request_stream is not None:
                    self._request_stream.commit()
                return reply
            except CallRefusedError as exc:
                refusals += 1
                self._attempt_kind = TRANSPARENT_RETRY
                delay = self._retry_delay(exc, attempt, RECONNECT_BACKOFF.delay(refusals, Random()))
            except purerpc.RpcFailedError as exc:
                self._attempt_kind = RETRY
                delay = self._retry_delay(exc, attempt, None)
            attempt.end()
            await trio.sleep(delay)
            if self._attempt is attempt:
                self._attempt = None

    def _retry_delay(
        self, failure: purerpc.RpcFailedError, attempt: Attempt, delay: float | None
    ) -> float:
        """Seconds until the call is made again; `delay` is known where it was not processed.

        Raises the failure where it is not made again: only what can be sent again is, and what a
        caller sends one by one cannot.
        """
        kept = self._single_message is not None or (
            self._request_stream is not None and self._request_stream.is_replayable
        )
        if not kept or attempt.is_committed or self._is_cancelled:
            raise failure
        if self._request_stream is not None and self._request_stream.error is not None:
            raise failure
        if delay is not None:
            return delay
        if self._method_config.retry_policy is None:
            raise failure
        if self._retry_state is None:
            self._retry_state = RetryState(
                self._method_config.retry_policy, self._channel.retry_throttle, Random()
            )
        self._pick_args = self._pick_args.excluding(attempt.pick_result.channel_endpoint)
        return next_retry_delay(self._channel, self._retry_state, attempt, failure)

    async def _receive_single(self) -> Any:
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
        """End the call now; the handler is cancelled. Does nothing where it is over."""
        self._is_cancelled = True
        self._count_result(failed=True)
        if self._interceptor_task is not None:
            self._interceptor_task.request_exit()
        if self._request_stream is not None:
            self._request_stream.cancel_scope.cancel()
        if self._attempt is not None:
            self._attempt.end()
        watch, self._call_tracer = self._call_tracer, None
        if watch is not None:
            notify_tracer(self._method.path, watch.call_ended, None)

    def _finish(self, error: BaseException | None) -> None:
        """It is over by itself, with a failure or without."""
        watch, self._call_tracer = self._call_tracer, None
        self._count_result(failed=error is not None)
        self.cancel()
        if watch is not None:
            outcome = STATUS_OK if error is None else call_status_for(error)
            notify_tracer(self._method.path, watch.call_ended, outcome)

    def _count_result(self, *, failed: bool) -> None:
        if self._call_counters is not None:
            _count_call_result(self._call_counters, self._attempt, failed=failed)
            self._call_counters = None

    async def aclose(self) -> None:
        """The same as `cancel`, for `contextlib.aclosing`."""
        self.cancel()
        await trio.lowlevel.checkpoint()

    def __await__(self) -> Generator[Any, Any, StreamingCall]:
        """`call = await stub.Method()`, as with purerpc: start it now."""
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        await self._run_with_timeout(self._ensure_started)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.cancel()

    def __del__(self) -> None:
        attempt = getattr(self, "_attempt", None)
        sending = getattr(self, "_request_stream", None) is not None
        around = getattr(self, "_interceptor_task", None)
        tally = getattr(self, "_call_counters", None)
        if attempt is not None and (
            tally
            or sending
            or around
            or attempt.stream.id in attempt.pick_result.connection.streams
        ):
            # The collector may run in any thread, and in the middle of anything.
            with contextlib.suppress(trio.RunFinishedError):
                self._trio_token.run_sync_soon(
                    _cancel_dropped, attempt, self._request_stream, around, self._call_tracer, tally
                )


def _cancel_dropped(
    attempt: Attempt,
    request_stream: RequestStream | None,
    interceptor_task: InterceptorTask | None,
    call_tracer: ClientCallTracer | None,
    call_counters: CallCounters | None,
) -> None:
    if call_counters is not None:
        _count_call_result(call_counters, attempt, failed=True)
    if interceptor_task is not None:
        interceptor_task.request_exit()
    if request_stream is not None:
        request_stream.cancel_scope.cancel()
    attempt.end()
    if call_tracer is not None:
        notify_tracer_in_read_loop("a call that was dropped", call_tracer.call_ended, None)


def _count_call_result(
    call_counters: CallCounters, attempt: Attempt | None, *, failed: bool
) -> None:
    call_counters.end_call(failed=failed)
    if attempt is not None and attempt.stream.has_succeeded:
        attempt.pick_result.connection.counters.streamed_replies += 1
