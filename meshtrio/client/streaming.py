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
from meshtrio.client.endpoint import RECONNECT
from meshtrio.client.head import request_block
from meshtrio.client.interceptors import Around, describe
from meshtrio.client.picker import PLAIN, CallOptions, Picker
from meshtrio.client.sender import Sender
from meshtrio.client.unary import next_delay, out_of_time, wish_of
from meshtrio.errors import CallRefusedError, unwrap
from meshtrio.policies.retry import Retries
from meshtrio.policies.service_config import MethodConfig
from meshtrio.rpc.observe import (
    ORIGINAL,
    RETRY,
    SUCCESS,
    TRANSPARENT_RETRY,
    CallWatch,
    outcome_of_call,
)
from meshtrio.rpc.observers import attempted, begun, method_observer
from meshtrio.rpc.seam import Message, MetadataLike, Method
from meshtrio.rpc.tally import Tally, succeeded
from meshtrio.rpc.tracing import notify, notify_in_read_loop
from meshtrio.wire.compression import IDENTITY
from meshtrio.wire.grpc import Metadata

T = TypeVar("T")


class StreamUnaryCall:
    """`reply = await stub.Method(requests, metadata=…)`, `requests` an async iterable."""

    def __init__(self, picker: Picker, method: Method) -> None:
        self._picker = picker
        self._method = method

    async def __call__(
        self,
        messages: AsyncIterable[Message],
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait: bool | None = None,
        policy: MethodConfig | None = None,
    ) -> Any:
        """Call, sending while waiting for the reply; raises what `messages` raises.

        `wait` and `policy` are as for calls with one request.
        """
        options = CallOptions.of(metadata, compression, wait, policy)
        async with Call(self._picker, self._method, options, messages) as call:
            return await call._receive_only()

    def start(
        self,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        wait: bool | None = None,
        policy: MethodConfig | None = None,
    ) -> Call:
        """A `Call` to send the requests of one by one, and then `receive_message` once."""
        options = CallOptions.of(metadata, compression, wait, policy)
        return Call(self._picker, self._method, options)


class Call(AsyncIterator[Any]):
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
        picker: Picker,
        method: Method,
        options: CallOptions = PLAIN,
        messages: AsyncIterable[Message] | None = None,
        *,
        single: Message | None = None,
    ) -> None:
        """`messages` are sent while replies are received; `single` is the only one."""
        self._picker = picker
        self._method = method
        self._options = options
        self._sender = None if messages is None else Sender(messages)
        self._single = single
        self._attempt: Attempt | None = None
        self._config = options.policy or picker.config.method(method.service, method.name)
        self._retries: Retries | None = None
        self._wish = wish_of(options, self._config)
        self._around: Around | None = None
        self._watch: CallWatch | None = None
        self._kind = ORIGINAL
        self._ends = math.inf
        """When the time is over that the service's config gives it."""
        self._tally: Tally | None = None
        """Where it is counted as started and has still to be counted as ended."""
        self._sending = self._noted = False
        self._opening = trio.Lock()
        self._cancelled = False
        self._token = trio.lowlevel.current_trio_token()

    async def _started(self) -> Attempt:
        if self._attempt is None:
            async with self._opening:
                if self._cancelled:
                    raise purerpc.CancelledError("the call was cancelled on this side")
                if self._attempt is None:
                    try:
                        await self._start()
                    except BaseException as exc:
                        self._end(exc)
                        raise
        assert self._attempt is not None
        return self._attempt

    async def _start(self) -> None:
        if self._tally is None:
            self._tally = self._picker.calls
            self._tally.started += 1
        if self._picker.observer is not None and self._watch is None:
            target = self._picker.target
            self._watch = begun(method_observer(self._picker.observer, target, self._method))
        if self._picker.interceptors and self._around is None:
            call = describe(self._picker, self._method, self._options)
            self._around = Around(self._picker.interceptors, call)
            self._picker.spawn(self._around.run)
            await self._around.entered()
            self._options = attrs.evolve(self._options, metadata=tuple(call.metadata))
        if not self._noted and self._config.retry is not None:
            self._noted = True
            self._picker.note_call()
        block = request_block(self._method, self._picker)
        previous = 0 if self._retries is None else self._retries.attempts - 1
        self._attempt = attempt = await Attempt.open(
            self._picker,
            self._method,
            block,
            self._options,
            previous=previous,
            wish=self._wish,
            watch=None if self._watch is None else attempted(self._watch, self._kind, previous),
            limits=self._picker.lengths.with_config(self._config),
        )
        if self._around is not None:
            self._around.call.attempt = attempt
        if self._single is not None:
            await attempt.send(self._single, end_stream=True)
            return
        # The first request may be long in coming, and the server may be the first to speak.
        attempt.target.connection.flush()
        attempt.target.connection.tally.sent -= 1  # that is not one for each stream
        if self._sender is not None:
            await self._sender.attach(attempt)
            if not self._sending:
                self._sending = True
                self._picker.spawn(self._sender.run)

    # -- sending -----------------------------------------------------------------------------

    async def send_message(self, message: Message, *, compress: bool = True) -> None:
        """Send a request, waiting for the peer to take it. Does nothing once the call is over.

        `compress=False` sends it as it is, in spite of the call's `compression`.
        """
        await self._in_time(self._send, message, compress)

    async def _send(self, message: Message, compress: bool) -> None:
        await (self._attempt or await self._started()).send(message, compress=compress)

    async def _in_time(self, step: Callable[..., Awaitable[T]], *arguments: object) -> T:
        """Do something in the time that the service's config gives the call, from its start."""
        seconds = self._config.timeout
        if seconds is None:  # A scope takes longer than what is done for a message.
            return await step(*arguments)
        if self._ends == math.inf:
            self._ends = trio.current_time() + seconds
        with trio.CancelScope(deadline=self._ends):
            return await step(*arguments)
        self.cancel()
        raise out_of_time(seconds)

    async def close(self) -> None:
        """End the requests, as purerpc's streams do; replies may still be received."""
        await (await self._started()).stream.send_end()

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
            reply = await self._in_time(self._receive)
        except BaseException as exc:
            if self._around is not None and isinstance(exc, Exception):
                exc = await self._around.left(exc) or exc
            self._end(exc)
            if self._sender is None or self._sender.error is None:
                raise exc from exc.__cause__
            if isinstance(exc, trio.Cancelled):
                raise
            raise unwrap(self._sender.error) from None
        if reply is None:
            if self._picker.throttle is not None:
                self._picker.throttle.succeeded()
            error = None if self._around is None else await self._around.left(None)
            self._end(error)
            if error is not None:
                raise error
        return reply

    async def _receive(self) -> Any:
        """Take the next reply; a call whose reply has not begun may be made again first."""
        refusals = 0
        while True:
            attempt = await self._started()
            try:
                reply = await attempt.receive()
                if self._sender is not None:
                    self._sender.commit()
                return reply
            except CallRefusedError as exc:
                refusals += 1
                self._kind = TRANSPARENT_RETRY
                delay = self._delay_after(exc, attempt, RECONNECT.delay(refusals, Random()))
            except purerpc.RpcFailedError as exc:
                self._kind = RETRY
                delay = self._delay_after(exc, attempt, None)
            attempt.end()
            await trio.sleep(delay)
            if self._attempt is attempt:
                self._attempt = None

    def _delay_after(
        self, failure: purerpc.RpcFailedError, attempt: Attempt, delay: float | None
    ) -> float:
        """Seconds until the call is made again; `delay` is known where it was not processed.

        Raises the failure where it is not made again: only what can be sent again is, and what a
        caller sends one by one cannot.
        """
        kept = self._single is not None or (self._sender is not None and self._sender.can_repeat)
        if not kept or attempt.committed or self._cancelled:
            raise failure
        if self._sender is not None and self._sender.error is not None:
            raise failure
        if delay is not None:
            return delay
        if self._config.retry is None:
            raise failure
        if self._retries is None:
            self._retries = Retries(self._config.retry, self._picker.throttle, Random())
        self._wish = self._wish.elsewhere_than(attempt.target.source)
        return next_delay(self._picker, self._retries, attempt, failure)

    async def _receive_only(self) -> Any:
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
        self._cancelled = True
        self._count_end(failed=True)
        if self._around is not None:
            self._around.leave()
        if self._sender is not None:
            self._sender.scope.cancel()
        if self._attempt is not None:
            self._attempt.end()
        watch, self._watch = self._watch, None
        if watch is not None:
            notify(self._method.path, watch.ended, None)

    def _end(self, error: BaseException | None) -> None:
        """It is over by itself, with a failure or without."""
        watch, self._watch = self._watch, None
        self._count_end(failed=error is not None)
        self.cancel()
        if watch is not None:
            outcome = SUCCESS if error is None else outcome_of_call(error)
            notify(self._method.path, watch.ended, outcome)

    def _count_end(self, *, failed: bool) -> None:
        if self._tally is not None:
            _count_end(self._tally, self._attempt, failed=failed)
            self._tally = None

    async def aclose(self) -> None:
        """The same as `cancel`, for `contextlib.aclosing`."""
        self.cancel()
        await trio.lowlevel.checkpoint()

    def __await__(self) -> Generator[Any, Any, Call]:
        """`call = await stub.Method()`, as with purerpc: start it now."""
        return self.__aenter__().__await__()

    async def __aenter__(self) -> Self:
        await self._in_time(self._started)
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
        sending = getattr(self, "_sender", None) is not None
        around = getattr(self, "_around", None)
        tally = getattr(self, "_tally", None)
        if attempt is not None and (
            tally or sending or around or attempt.stream.id in attempt.target.connection.streams
        ):
            # The collector may run in any thread, and in the middle of anything.
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(
                    _end_dropped, attempt, self._sender, around, self._watch, tally
                )


def _end_dropped(
    attempt: Attempt,
    sender: Sender | None,
    around: Around | None,
    watch: CallWatch | None,
    tally: Tally | None,
) -> None:
    if tally is not None:
        _count_end(tally, attempt, failed=True)
    if around is not None:
        around.leave()
    if sender is not None:
        sender.scope.cancel()
    attempt.end()
    if watch is not None:
        notify_in_read_loop("a call that was dropped", watch.ended, None)


def _count_end(tally: Tally, attempt: Attempt | None, *, failed: bool) -> None:
    tally.end(failed=failed)
    if attempt is not None and succeeded(attempt.stream):
        attempt.target.connection.tally.received -= 1  # as when it was started
