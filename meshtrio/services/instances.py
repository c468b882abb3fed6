"""The fan-out over the instances that are ready: one call to each, or one stream of each."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from functools import partial
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.client.channel import open_endpoint_channel
from meshtrio.client.multicallable import make_multicallable
from meshtrio.client.streaming import StreamingCall
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.rpc.method import Message, Method
from meshtrio.util.protobuf_wire import MalformedProtobufError

_log = logging.getLogger("meshtrio.mesh")

_MIN_SCAN_INTERVAL = 0.05
"""Minimum seconds between two looks at the registry, however often it changes."""
MAX_SMALL_RESPONSE_SIZE = 16 * 1024
"""Maximum bytes of a response that consists of a few numbers or names."""
_MAX_ERROR_LENGTH = 200
"""Maximum characters of an exception's text in a `CallFailure`."""

InstanceKey = tuple[str, int]
"""The name of a service, and the number of one of its instances."""


class FailureKind(Enum):
    """Why a call to an instance gave no response."""

    UNSUPPORTED = "unsupported"
    """The instance answered UNIMPLEMENTED: it is not made with meshtrio."""
    UNAVAILABLE = "unavailable"
    """The call ended with another status, or was not answered in time."""
    INVALID = "invalid"
    """The response could not be used."""


@attrs.frozen
class CallFailure:
    """Why a call to an instance gave no response."""

    kind: FailureKind
    message: str


def get_ready_endpoints(
    registry: Registry, is_wanted: Callable[[str], bool] = lambda _: True
) -> dict[InstanceKey, Endpoint]:
    """Return the endpoints of all ready instances of the wanted services.

    Of two endpoints of one instance, as during a replacement, the latest counts.
    """
    return {
        (service, endpoint.instance): endpoint
        for service in registry.services()
        if is_wanted(service)
        for endpoint in registry.resolve(service).endpoints
        if endpoint.pid
    }


async def call_instance(
    endpoint: Endpoint,
    method: Method,
    request: Message,
    *,
    timeout_seconds: float,
    max_response_size: int | None = None,
) -> Any:
    """Call a method of one instance, and return the response or a `CallFailure`.

    Whatever the instance answers, only cancellation raises. `max_response_size`: maximum bytes of
    the response; None for the default of 4 MiB.
    """
    try:
        with trio.fail_after(timeout_seconds):
            async with open_endpoint_channel(
                endpoint, traced=False, max_receive_message_length=max_response_size
            ) as channel:
                return await make_multicallable(channel, method)(request)
    except purerpc.UnimplementedError as exc:
        return CallFailure(FailureKind.UNSUPPORTED, exc.status.status_message)
    except purerpc.RpcFailedError as exc:
        return CallFailure(FailureKind.UNAVAILABLE, exc.status.status_message)
    except trio.TooSlowError:
        text = f"it did not answer within {timeout_seconds:g} s"
        return CallFailure(FailureKind.UNAVAILABLE, text)
    except Exception as exc:
        # A response must not end the task that asked for it.
        text = f"{type(exc).__name__}: {str(exc)[:_MAX_ERROR_LENGTH]}"
        return CallFailure(FailureKind.INVALID, text)


async def call_each_instance(
    endpoints: Mapping[InstanceKey, Endpoint],
    method: Method,
    request: Message,
    *,
    timeout_seconds: float,
) -> dict[InstanceKey, Any]:
    """Call several instances concurrently, and return what `call_instance` does for each."""
    results: dict[InstanceKey, Any] = {}

    async def run(key: InstanceKey, endpoint: Endpoint) -> None:
        timeout = timeout_seconds
        results[key] = await call_instance(endpoint, method, request, timeout_seconds=timeout)

    async with trio.open_nursery() as nursery:
        for key, endpoint in endpoints.items():
            nursery.start_soon(run, key, endpoint)
    return results


async def read_from_each_instance(
    registry: Registry,
    method: Method,
    request: Message,
    handle: Callable[[InstanceKey, Endpoint, Any], Awaitable[None]],
    *,
    is_wanted: Callable[[str], bool] = lambda _: True,
    min_interval: float,
    retry_delay: float,
    max_message_size: int | None = None,
) -> None:
    """Call a streaming method of each ready instance, and read until its endpoint is gone.

    `handle` is called with each message, and may raise MalformedProtobufError; and with a
    FailureKind when a stream fails. The next one is opened `retry_delay` later, unless the instance
    answers UNIMPLEMENTED. An instance that sends more often than once in `min_interval` has to wait
    for its flow-control window.

    Cancellation: closes all streams; the function does not return otherwise.
    """
    running: dict[InstanceKey, tuple[Endpoint, trio.CancelScope]] = {}

    async def read(key: InstanceKey, endpoint: Endpoint, scope: trio.CancelScope) -> None:
        with scope:
            try:
                async with open_endpoint_channel(
                    endpoint, traced=False, max_receive_message_length=max_message_size
                ) as channel:
                    call = make_multicallable(channel, method)
                    on_message, failure = partial(handle, key, endpoint), None
                    while failure is not FailureKind.UNSUPPORTED:
                        failure = await _read_stream(call(request), on_message, min_interval)
                        if failure is not None:
                            await on_message(failure)
                        await trio.sleep(retry_delay)
            except Exception:
                # The response of one instance must not end the tasks of the others.
                _log.exception("%s/%d: unusable response", *key)

    async with trio.open_nursery() as nursery:
        while True:
            revision, ready = registry.revision, get_ready_endpoints(registry, is_wanted)
            for key, (endpoint, scope) in list(running.items()):
                if ready.get(key) != endpoint:
                    scope.cancel()
                    del running[key]
            for key in ready.keys() - running.keys():
                running[key] = (ready[key], trio.CancelScope())
                nursery.start_soon(read, key, *running[key])
            await trio.sleep(_MIN_SCAN_INTERVAL)
            await registry.wait_changed(revision)


async def _read_stream(
    call: StreamingCall, on_message: Callable[[Any], Awaitable[None]], min_interval: float
) -> FailureKind | None:
    try:
        async with call as stream:
            async for message in stream:
                await on_message(message)
                await trio.sleep(min_interval)
    except purerpc.UnimplementedError:
        return FailureKind.UNSUPPORTED
    except (purerpc.RpcFailedError, MalformedProtobufError):
        return FailureKind.UNAVAILABLE
    return None
