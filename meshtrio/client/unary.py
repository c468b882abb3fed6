"""Calls with one request and one reply."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Unpack

import attrs
import trio

from meshtrio.client.attempt import Attempt
from meshtrio.client.call_destination import (
    DEFAULT_OPTIONS,
    CallContext,
    CallDestination,
    CallKeywords,
    CallOptions,
    call_status_for,
    make_call_options,
    make_timeout_error,
)
from meshtrio.client.interceptors import intercept, make_client_call
from meshtrio.client.request_headers import encode_method_headers
from meshtrio.client.retry.loop import run_attempts
from meshtrio.grpc.metadata import Metadata
from meshtrio.grpc.service_config import MethodConfig
from meshtrio.grpc.status import STATUS_OK
from meshtrio.rpc.composite_tracer import start_tracer
from meshtrio.rpc.method import Message, Method
from meshtrio.rpc.tracer import ClientCallTracer, MethodTracer
from meshtrio.rpc.tracer_dispatch import notify_tracer

_Tracer = ClientCallTracer | None


@attrs.frozen
class CallMetadata:
    """Metadata of a successful call."""

    initial_metadata: Metadata
    """Metadata of the response headers."""
    trailing_metadata: Metadata
    """Metadata of the trailers."""


class UnaryUnaryMultiCallable:
    """A unary method of a stub: `reply = await stub.Method(request, metadata=…)`."""

    def __init__(self, channel: CallDestination, method: Method) -> None:
        self._channel = channel
        self._method = method
        self._method_headers = encode_method_headers(method, channel)
        self._update_config()
        self._method_tracer = None
        if channel.tracer is not None:
            trace_method, target = channel.tracer.trace_method, channel.target
            self._method_tracer = start_tracer(trace_method, MethodTracer, target, method)
        self._call_counters = channel.call_counters
        self._invoke = self._call_intercepted if channel.interceptors else self._call

    def __repr__(self) -> str:
        return f"<UnaryUnaryMultiCallable {self._method.path} to {self._channel.name}>"

    async def __call__(
        self, message: Message, *, compress: bool = True, **keywords: Unpack[CallKeywords]
    ) -> Any:
        """Call the method.

        A call that was provably not processed is retried transparently; any other by the method's
        retry or hedging policy, within the caller's deadline (gRFC A6).

        Args:
            message: The request.
            compress: If False, the request is sent uncompressed in spite of `compression`.
            keywords: `metadata`, `compression`, `wait_for_ready` and `method_config`, see
                `CallKeywords`.

        Returns:
            The reply.

        Raises:
            RpcFailedError: A status other than OK, as purerpc's exception for it, with
                `trailing_metadata` and `status_details` (a serialized google.rpc.Status), both
                empty if the server has sent no trailers.
            ValueError: `compression` is unknown.

        Cancellation: the handler is cancelled too, as it is at the deadline of the caller's scope.
        """
        options = CallOptions(**keywords) if keywords else DEFAULT_OPTIONS
        return (await self._counted_call(message, options, compress))[0]

    async def with_call(
        self, message: Message, *, compress: bool = True, **keywords: Unpack[CallKeywords]
    ) -> tuple[Any, CallMetadata]:
        """Call the method and return the reply's metadata too.

        Args, Raises and Cancellation are those of `__call__`.

        Returns:
            The reply and its metadata.
        """
        reply, attempt = await self._counted_call(message, make_call_options(keywords), compress)
        return reply, CallMetadata(attempt.initial_metadata or (), attempt.trailing_metadata or ())

    async def _counted_call(
        self, message: Message, options: CallOptions, compress: bool
    ) -> tuple[Any, Attempt]:
        counters = self._call_counters
        counters.started += 1
        tracer = None
        if self._method_tracer is not None:
            tracer = start_tracer(self._method_tracer.start_call, ClientCallTracer)
        try:
            result = await self._invoke(message, options, compress, tracer)
        except BaseException as exc:
            counters.failed += 1
            if tracer is not None:
                notify_tracer(self._method.path, tracer.call_ended, call_status_for(exc))
            raise
        counters.succeeded += 1
        if tracer is not None:
            notify_tracer(self._method.path, tracer.call_ended, STATUS_OK)
        return result

    async def _call_intercepted(
        self, message: Message, options: CallOptions, compress: bool, tracer: _Tracer
    ) -> tuple[Any, Attempt]:
        client_call = make_client_call(self._channel, self._method, options)

        async def call() -> tuple[Any, Attempt]:
            changed = attrs.evolve(options, metadata=client_call.metadata)
            result = await self._call(message, changed, compress, tracer)
            client_call.attempt = result[1]
            return result

        return await intercept(self._channel.interceptors, client_call, call)

    async def _call(
        self, message: Message, options: CallOptions, compress: bool, tracer: _Tracer
    ) -> tuple[Any, Attempt]:
        channel = self._channel
        if self._service_config is not channel.service_config:
            self._update_config()
        config = self._method_config
        limits = self._message_limits
        pick_args = self._pick_args
        if options is not DEFAULT_OPTIONS:
            if options.method_config is not None:
                config = options.method_config
                limits = channel.message_lengths.resolve_limits(config)
            pick_args = options.make_pick_args(config)
        if limits is not None:
            limits.check_send(message.ByteSize())
        policy, headers = config.retry_policy, self._method_headers
        if policy is not None:
            channel.retry_control.budget.deposit(trio.current_time())
        call = CallContext(
            channel, self._method, headers, options, limits, tracer, policy, pick_args
        )
        exchange = partial(Attempt.exchange, message=message, compress=compress)
        if config.can_use_fast_path:
            result = await run_attempts(call, exchange)
        else:
            result = await _call_with_config(call, config, exchange)
        result[1].end()
        throttle = channel.retry_control.throttle
        if throttle is not None:
            throttle.on_success()
        return result

    def _update_config(self) -> None:
        """Follow the channel's service config."""
        channel, method = self._channel, self._method
        self._service_config = channel.service_config
        self._method_config = self._service_config.get_method_config(method.service, method.name)
        self._message_limits = channel.message_lengths.resolve_limits(self._method_config)
        self._pick_args = DEFAULT_OPTIONS.make_pick_args(self._method_config)


async def _call_with_config(
    call: CallContext, config: MethodConfig, exchange: Callable[[Attempt], Awaitable[Any]]
) -> tuple[Any, Attempt]:
    """Make a call whose method config has a timeout or a hedging policy."""
    with trio.move_on_after(math.inf if config.timeout is None else config.timeout):
        if config.hedging_policy is None:
            return await run_attempts(call, exchange)
        from meshtrio.client.retry.hedging import call_hedged  # few methods have it

        call.channel.retry_control.budget.deposit(trio.current_time())
        return await call_hedged(call, config.hedging_policy, exchange)
    raise make_timeout_error(config.timeout)
