"""Calls with one reply: awaited, and made again where the service's config says so."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from random import Random
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.client.attempt import Attempt
from meshtrio.client.endpoint import RECONNECT
from meshtrio.client.head import request_block
from meshtrio.client.interceptors import describe, enter
from meshtrio.client.picker import ANY, CallOptions, Picker, Wish
from meshtrio.errors import CallRefusedError
from meshtrio.policies.retry import Retries
from meshtrio.policies.service_config import MethodConfig
from meshtrio.rpc.message_limits import MessageLimits
from meshtrio.rpc.observe import (
    HEDGE,
    ORIGINAL,
    RETRY,
    SUCCESS,
    TRANSPARENT_RETRY,
    CallWatch,
    MethodObserver,
    outcome_of_call,
)
from meshtrio.rpc.observers import attempted, begun, method_observer
from meshtrio.rpc.seam import Message, MetadataLike, Method
from meshtrio.rpc.tracing import notify
from meshtrio.wire.compression import IDENTITY
from meshtrio.wire.grpc import Metadata

_WISHES = {None: ANY, True: Wish(wait=True), False: Wish(wait=False)}


@attrs.frozen
class Outcome:
    """What came with the replies of a call that succeeded."""

    initial_metadata: Metadata
    trailing_metadata: Metadata


class UnaryCall:
    """`reply = await stub.Method(request, metadata=…, compression="gzip")`"""

    def __init__(self, picker: Picker, method: Method) -> None:
        self._picker = picker
        self._method = method
        self._block = request_block(method, picker)
        self._rng = Random()
        self._service_config = picker.config
        self._config = picker.config.method(method.service, method.name)
        self._limits = picker.lengths.with_config(self._config)
        self._observer: MethodObserver | None = None
        if picker.observer is not None:
            self._observer = method_observer(picker.observer, picker.target, method)
        self._calls = picker.calls
        self._perform = self._intercepted if picker.interceptors else self._made

    async def __call__(
        self,
        message: Message,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        compress: bool = True,
        wait: bool | None = None,
        policy: MethodConfig | None = None,
    ) -> Any:
        """Call, waiting for a ready endpoint first.

        `compression` is what the request is sent in; `compress=False` sends it as it is all the
        same. `wait=False` fails with UnavailableError where no endpoint can be reached just now, as
        does by default a call to a service that nobody attends to; `policy` stands in for the
        service's config. Raises purerpc's exception for a status other than OK, with what came
        along as its `trailing_metadata` and `status_details` (a serialized google.rpc.Status).

        When cancelled, or past the deadline of the caller's scope, the handler is cancelled too. A
        call that was provably not processed is made again; others only by the policy for the
        method, within the caller's deadline.
        """
        options = CallOptions.of(metadata, compression, wait, policy)
        return (await self._call(message, options, compress))[0]

    async def with_call(
        self,
        message: Message,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        compress: bool = True,
        wait: bool | None = None,
        policy: MethodConfig | None = None,
    ) -> tuple[Any, Outcome]:
        """The same, giving the reply and the metadata that came with it."""
        options = CallOptions.of(metadata, compression, wait, policy)
        reply, attempt = await self._call(message, options, compress)
        return reply, Outcome(attempt.initial_metadata or (), attempt.trailing_metadata or ())

    async def _call(
        self, message: Message, options: CallOptions, compress: bool
    ) -> tuple[Any, Attempt]:
        calls = self._calls
        calls.started += 1
        watch = None if self._observer is None else begun(self._observer)
        try:
            result = await self._perform(message, options, compress, watch)
        except BaseException as exc:
            calls.failed += 1
            if watch is not None:
                notify(self._method.path, watch.ended, outcome_of_call(exc))
            raise
        calls.succeeded += 1
        if watch is not None:
            notify(self._method.path, watch.ended, SUCCESS)
        return result

    async def _intercepted(
        self,
        message: Message,
        options: CallOptions,
        compress: bool,
        watch: CallWatch | None = None,
    ) -> tuple[Any, Attempt]:
        call = describe(self._picker, self._method, options)
        async with AsyncExitStack() as stack:
            await enter(stack, self._picker.interceptors, call)
            options = attrs.evolve(options, metadata=tuple(call.metadata))
            reply, call.attempt = await self._made(message, options, compress, watch)
        return reply, call.attempt

    async def _made(
        self,
        message: Message,
        options: CallOptions,
        compress: bool,
        watch: CallWatch | None = None,
    ) -> tuple[Any, Attempt]:
        if options.policy is None:
            config = self._current_config()
            limits = self._limits
        else:
            config = options.policy
            limits = self._picker.lengths.with_config(config)
        if limits is not None:
            limits.check_send(message.ByteSize())
        if config.is_plain:
            return await self._attempts(message, options, compress, config, limits, watch)
        async with within(config.timeout):
            if config.hedging is not None:
                self._picker.note_call()
                from meshtrio.client.hedging import hedged  # few methods have it

                one = partial(self._once, message, options, compress, limits, watch)
                wish = wish_of(options, config)
                result = await hedged(self._picker, config.hedging, one, wish)
            else:
                result = await self._attempts(message, options, compress, config, limits, watch)
        return result

    def _current_config(self) -> MethodConfig:
        """The method's, of the config that the channel goes by now."""
        if self._service_config is not self._picker.config:
            self._service_config = self._picker.config
            self._config = self._service_config.method(self._method.service, self._method.name)
            self._limits = self._picker.lengths.with_config(self._config)
        return self._config

    async def _attempts(
        self,
        message: Message,
        options: CallOptions,
        compress: bool,
        config: MethodConfig,
        limits: MessageLimits | None,
        watch: CallWatch | None,
    ) -> tuple[Any, Attempt]:
        """One attempt after the other, until one succeeds or fails for good."""
        wish = wish_of(options, config)
        retries: Retries | None = None
        refusals = 0
        kind = ORIGINAL
        if config.retry is not None:
            self._picker.note_call()
        while True:
            previous = 0 if retries is None else retries.attempts - 1
            attempt = await Attempt.open(
                self._picker,
                self._method,
                self._block,
                options,
                previous=previous,
                wish=wish,
                watch=None if watch is None else attempted(watch, kind, previous),
                limits=limits,
            )
            try:
                await attempt.send(message, compress=compress, end_stream=True)
                reply = await attempt.receive_only()
                if self._picker.throttle is not None:
                    self._picker.throttle.succeeded()
                return reply, attempt
            except CallRefusedError:
                refusals += 1
                kind = TRANSPARENT_RETRY
                delay = RECONNECT.delay(refusals, self._rng)
            except purerpc.RpcFailedError as exc:
                if config.retry is None or attempt.committed:
                    raise
                kind = RETRY
                retries = retries or Retries(config.retry, self._picker.throttle, self._rng)
                delay = next_delay(self._picker, retries, attempt, exc)
                wish = wish.elsewhere_than(attempt.target.source)
            finally:
                attempt.end()
            await trio.sleep(delay)

    async def _once(
        self,
        message: Message,
        options: CallOptions,
        compress: bool,
        limits: MessageLimits | None,
        watch: CallWatch | None,
        previous: int,
        wish: Wish,
        opened: Callable[[Attempt], None],
    ) -> tuple[Any, Attempt]:
        """One of several attempts at the same time."""
        refusals = 0
        kind = HEDGE if previous else ORIGINAL
        while True:
            attempt = await Attempt.open(
                self._picker,
                self._method,
                self._block,
                options,
                previous=previous,
                wish=wish,
                watch=None if watch is None else attempted(watch, kind, previous),
                limits=limits,
            )
            opened(attempt)
            try:
                await attempt.send(message, compress=compress, end_stream=True)
                return await attempt.receive_only(), attempt
            except CallRefusedError:
                refusals += 1
                kind = TRANSPARENT_RETRY
            finally:
                attempt.end()
            await trio.sleep(RECONNECT.delay(refusals, self._rng))


def next_delay(
    picker: Picker, retries: Retries, attempt: Attempt, failure: purerpc.RpcFailedError
) -> float:
    """Seconds until the call is made again; raises its failure where it is not.

    Nor is it where its caller's deadline would be over by then: the failure says more.
    """
    delay = retries.after(failure.status.status_code.value, attempt.pushback)
    if delay is None or not picker.may_retry():
        raise failure
    if trio.current_time() + delay >= trio.current_effective_deadline():
        raise failure
    return delay


def wish_of(options: CallOptions, config: MethodConfig) -> Wish:
    """Whether a call waits for an endpoint: by the caller's word, the config's, or by default."""
    return _WISHES[config.wait_for_ready if options.wait is None else options.wait]


@asynccontextmanager
async def within(seconds: float | None) -> AsyncIterator[None]:
    """Raise DeadlineExceededError where the service's config gives the block too little time."""
    with trio.move_on_after(math.inf if seconds is None else seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise out_of_time(seconds)


def out_of_time(seconds: float | None) -> purerpc.DeadlineExceededError:
    """What a call fails with whose time, by the service's config, is over."""
    return purerpc.DeadlineExceededError(f"the service's config gives it {seconds:g} s")
