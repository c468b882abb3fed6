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
from meshtrio.client.call_destination import (
    DEFAULT_PICK_ARGS,
    CallDestination,
    CallOptions,
    PickArgs,
)
from meshtrio.client.call_status import call_status_for
from meshtrio.client.interceptors import enter_interceptors, make_client_call
from meshtrio.client.request_headers import encode_method_headers
from meshtrio.client.retry.policy import RetryState
from meshtrio.discovery.endpoint import RECONNECT_BACKOFF
from meshtrio.errors import CallRefusedError
from meshtrio.grpc.compression import IDENTITY
from meshtrio.grpc.metadata import Metadata
from meshtrio.grpc.service_config import MethodConfig
from meshtrio.grpc.status import STATUS_OK
from meshtrio.rpc.composite_tracer import (
    start_attempt_tracer,
    start_client_call_tracer,
    start_method_tracer,
)
from meshtrio.rpc.message_limits import MessageLimits
from meshtrio.rpc.method import Message, MetadataLike, Method
from meshtrio.rpc.tracer import (
    HEDGE,
    ORIGINAL,
    RETRY,
    TRANSPARENT_RETRY,
    ClientCallTracer,
    MethodTracer,
)
from meshtrio.rpc.tracer_dispatch import notify_tracer

_PICK_ARGS = {
    None: DEFAULT_PICK_ARGS,
    True: PickArgs(wait_for_ready=True),
    False: PickArgs(wait_for_ready=False),
}


@attrs.frozen
class CallMetadata:
    """What came with the replies of a call that succeeded."""

    initial_metadata: Metadata
    trailing_metadata: Metadata


class UnaryUnaryMultiCallable:
    """`reply = await stub.Method(request, metadata=…, compression="gzip")`"""

    def __init__(self, channel: CallDestination, method: Method) -> None:
        self._channel = channel
        self._method = method
        self._method_headers = encode_method_headers(method, channel)
        self._rng = Random()
        self._service_config = channel.service_config
        self._method_config = channel.service_config.get_method_config(method.service, method.name)
        self._message_limits = channel.message_lengths.resolve_limits(self._method_config)
        self._method_tracer: MethodTracer | None = None
        if channel.tracer is not None:
            self._method_tracer = start_method_tracer(channel.tracer, channel.target, method)
        self._call_counters = channel.call_counters
        self._invoke = (
            self._call_with_interceptors if channel.interceptors else self._call_with_config
        )

    async def __call__(
        self,
        message: Message,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        compress: bool = True,
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
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
        options = CallOptions.create(metadata, compression, wait_for_ready, method_config)
        return (await self._counted_call(message, options, compress))[0]

    async def with_call(
        self,
        message: Message,
        *,
        metadata: MetadataLike | None = None,
        compression: str = IDENTITY,
        compress: bool = True,
        wait_for_ready: bool | None = None,
        method_config: MethodConfig | None = None,
    ) -> tuple[Any, CallMetadata]:
        """The same, giving the reply and the metadata that came with it."""
        options = CallOptions.create(metadata, compression, wait_for_ready, method_config)
        reply, attempt = await self._counted_call(message, options, compress)
        return reply, CallMetadata(attempt.initial_metadata or (), attempt.trailing_metadata or ())

    async def _counted_call(
        self, message: Message, options: CallOptions, compress: bool
    ) -> tuple[Any, Attempt]:
        calls = self._call_counters
        calls.started += 1
        watch = (
            None if self._method_tracer is None else start_client_call_tracer(self._method_tracer)
        )
        try:
            result = await self._invoke(message, options, compress, watch)
        except BaseException as exc:
            calls.failed += 1
            if watch is not None:
                notify_tracer(self._method.path, watch.call_ended, call_status_for(exc))
            raise
        calls.succeeded += 1
        if watch is not None:
            notify_tracer(self._method.path, watch.call_ended, STATUS_OK)
        return result

    async def _call_with_interceptors(
        self,
        message: Message,
        options: CallOptions,
        compress: bool,
        call_tracer: ClientCallTracer | None = None,
    ) -> tuple[Any, Attempt]:
        call = make_client_call(self._channel, self._method, options)
        async with AsyncExitStack() as stack:
            await enter_interceptors(stack, self._channel.interceptors, call)
            options = attrs.evolve(options, metadata=tuple(call.metadata))
            reply, call.attempt = await self._call_with_config(
                message, options, compress, call_tracer
            )
        return reply, call.attempt

    async def _call_with_config(
        self,
        message: Message,
        options: CallOptions,
        compress: bool,
        call_tracer: ClientCallTracer | None = None,
    ) -> tuple[Any, Attempt]:
        if options.method_config is None:
            config = self._current_method_config()
            limits = self._message_limits
        else:
            config = options.method_config
            limits = self._channel.message_lengths.resolve_limits(config)
        if limits is not None:
            limits.check_send(message.ByteSize())
        if config.can_use_fast_path:
            return await self._call_with_retries(
                message, options, compress, config, limits, call_tracer
            )
        async with timeout_scope(config.timeout):
            if config.hedging_policy is not None:
                self._channel.deposit_retry_budget()
                from meshtrio.client.retry.hedging import call_hedged  # few methods have it

                one = partial(self._hedge_attempt, message, options, compress, limits, call_tracer)
                wish = make_pick_args(options, config)
                result = await call_hedged(self._channel, config.hedging_policy, one, wish)
            else:
                result = await self._call_with_retries(
                    message, options, compress, config, limits, call_tracer
                )
        return result

    def _current_method_config(self) -> MethodConfig:
        """The method's, of the config that the channel goes by now."""
        if self._service_config is not self._channel.service_config:
            self._service_config = self._channel.service_config
            self._method_config = self._service_config.get_method_config(
                self._method.service, self._method.name
            )
            self._message_limits = self._channel.message_lengths.resolve_limits(self._method_config)
        return self._method_config

    async def _call_with_retries(
        self,
        message: Message,
        options: CallOptions,
        compress: bool,
        method_config: MethodConfig,
        message_limits: MessageLimits | None,
        call_tracer: ClientCallTracer | None,
    ) -> tuple[Any, Attempt]:
        """One attempt after the other, until one succeeds or fails for good."""
        wish = make_pick_args(options, method_config)
        retries: RetryState | None = None
        refusals = 0
        kind = ORIGINAL
        if method_config.retry_policy is not None:
            self._channel.deposit_retry_budget()
        while True:
            previous = 0 if retries is None else retries.attempts - 1
            attempt = await Attempt.open(
                self._channel,
                self._method,
                self._method_headers,
                options,
                previous_attempts=previous,
                pick_args=wish,
                tracer=None
                if call_tracer is None
                else start_attempt_tracer(call_tracer, kind, previous),
                message_limits=message_limits,
            )
            try:
                await attempt.send(message, compress=compress, end_stream=True)
                reply = await attempt.receive_single()
                if self._channel.retry_throttle is not None:
                    self._channel.retry_throttle.on_success()
                return reply, attempt
            except CallRefusedError:
                refusals += 1
                kind = TRANSPARENT_RETRY
                delay = RECONNECT_BACKOFF.delay(refusals, self._rng)
            except purerpc.RpcFailedError as exc:
                if method_config.retry_policy is None or attempt.is_committed:
                    raise
                kind = RETRY
                retries = retries or RetryState(
                    method_config.retry_policy, self._channel.retry_throttle, self._rng
                )
                delay = next_retry_delay(self._channel, retries, attempt, exc)
                wish = wish.excluding(attempt.pick_result.channel_endpoint)
            finally:
                attempt.end()
            await trio.sleep(delay)

    async def _hedge_attempt(
        self,
        message: Message,
        options: CallOptions,
        compress: bool,
        message_limits: MessageLimits | None,
        call_tracer: ClientCallTracer | None,
        previous_attempts: int,
        pick_args: PickArgs,
        on_opened: Callable[[Attempt], None],
    ) -> tuple[Any, Attempt]:
        """One of several attempts at the same time."""
        refusals = 0
        kind = HEDGE if previous_attempts else ORIGINAL
        while True:
            attempt = await Attempt.open(
                self._channel,
                self._method,
                self._method_headers,
                options,
                previous_attempts=previous_attempts,
                pick_args=pick_args,
                tracer=None
                if call_tracer is None
                else start_attempt_tracer(call_tracer, kind, previous_attempts),
                message_limits=message_limits,
            )
            on_opened(attempt)
            try:
                await attempt.send(message, compress=compress, end_stream=True)
                return await attempt.receive_single(), attempt
            except CallRefusedError:
                refusals += 1
                kind = TRANSPARENT_RETRY
            finally:
                attempt.end()
            await trio.sleep(RECONNECT_BACKOFF.delay(refusals, self._rng))


def next_retry_delay(
    channel: CallDestination,
    retry_state: RetryState,
    attempt: Attempt,
    failure: purerpc.RpcFailedError,
) -> float:
    """Seconds until the call is made again; raises its failure where it is not.

    Nor is it where its caller's deadline would be over by then: the failure says more.
    """
    delay = retry_state.next_delay(failure.status.status_code.value, attempt.pushback)
    if delay is None or not channel.withdraw_retry_budget():
        raise failure
    if trio.current_time() + delay >= trio.current_effective_deadline():
        raise failure
    return delay


def make_pick_args(options: CallOptions, method_config: MethodConfig) -> PickArgs:
    """Whether a call waits for an endpoint: by the caller's word, the config's, or by default."""
    return _PICK_ARGS[
        method_config.wait_for_ready if options.wait_for_ready is None else options.wait_for_ready
    ]


@asynccontextmanager
async def timeout_scope(seconds: float | None) -> AsyncIterator[None]:
    """Raise DeadlineExceededError where the service's config gives the block too little time."""
    with trio.move_on_after(math.inf if seconds is None else seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise make_timeout_error(seconds)


def make_timeout_error(seconds: float | None) -> purerpc.DeadlineExceededError:
    """What a call fails with whose time, by the service's config, is over."""
    return purerpc.DeadlineExceededError(f"the service's config gives it {seconds:g} s")
