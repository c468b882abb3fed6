"""The calls that plugins serve, gathered for who watches them at the mesh."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import purerpc
import trio
from google.protobuf.message import DecodeError

from meshtrio.client.channel import Channel
from meshtrio.client.multicallable import make_multicallable
from meshtrio.client.raw_reply import make_raw_method
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.messages import tap
from meshtrio.services.instances import (
    InstanceKey,
    for_each_ready_instance,
    open_instance_channel,
)
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.protobuf_wire import MalformedProtobufError, iter_fields

_WATCH_METHOD = make_raw_method(tap.DESCRIPTOR.services_by_name["Tap"].methods_by_name["Watch"])
_MAX_BUFFERED_BATCHES = 4
"""Lots of calls that wait to be told; instances keep what comes meanwhile, as far as they do."""
_RETRY_DELAY = 0.5
_MIN_BATCH_INTERVAL = 0.02
_MAX_CALLS = 1000
"""In one message: so many does meshtrio keep for a reader that is late."""
_MAX_OTHER_BYTES = 1024
"""Bytes of a message that are no calls."""


@attrs.frozen
class TappedCalls:
    """What one instance tells."""

    service: str
    instance: int
    calls: Sequence[Any] | None = None
    """Of meshtrio.v1.EndedCall; None for an instance that does not tell of its calls."""
    missed: int = 0
    """Number of calls before these that were left out."""


@asynccontextmanager
async def tap_instances(
    registry: Registry, is_wanted: Callable[[str], bool], request: Any
) -> AsyncIterator[trio.MemoryReceiveChannel[TappedCalls]]:
    """Watch the instances of the services that are wanted, those too that come later."""
    sending, receiving = trio.open_memory_channel[TappedCalls](_MAX_BUFFERED_BATCHES)

    async def watch(key: InstanceKey, endpoint: Endpoint) -> None:
        async with open_instance_channel(endpoint) as channel:
            await _read_calls(channel, key, request, sending)

    async with open_collapsing_nursery() as nursery:
        nursery.start_soon(for_each_ready_instance, registry, watch, is_wanted)
        yield receiving
        nursery.cancel_scope.cancel()


async def _read_calls(
    channel: Channel,
    key: InstanceKey,
    request: Any,
    send_channel: trio.MemorySendChannel[TappedCalls],
) -> None:
    watch = make_multicallable(channel, _WATCH_METHOD)
    while True:
        try:
            async for reply in watch(request):
                await send_channel.send(_parse_calls(key, reply.data))
                # One that does not rest between two lots waits for its window.
                await trio.sleep(_MIN_BATCH_INTERVAL)
        except purerpc.UnimplementedError:
            await send_channel.send(TappedCalls(*key))
            return
        except (purerpc.RpcFailedError, MalformedProtobufError):
            await trio.sleep(_RETRY_DELAY)


def _parse_calls(key: InstanceKey, data: bytes) -> TappedCalls:
    """What a meshtrio.v1.EndedCalls says. Raises MalformedError for what is none."""
    calls, rest = [], bytearray()
    for number, begin, value, end in iter_fields(data):
        if number != tap.EndedCalls.CALLS_FIELD_NUMBER or value < 0:
            rest += data[begin:end]
        else:
            calls.append(_sanitize_call(data[value:end]))
        if len(calls) > _MAX_CALLS or len(rest) > _MAX_OTHER_BYTES:
            raise MalformedProtobufError(f"there is more in it than {_MAX_CALLS} calls")
    try:
        return TappedCalls(*key, calls, tap.EndedCalls.FromString(bytes(rest)).missed)
    except DecodeError as exc:
        raise MalformedProtobufError(str(exc)) from None


def _sanitize_call(data: bytes) -> Any:
    """A call without times that are none. Raises MalformedError."""
    try:
        call = tap.EndedCall.FromString(data)
    except DecodeError as exc:
        raise MalformedProtobufError(str(exc)) from None
    call.DiscardUnknownFields()
    if not math.isfinite(call.time):
        call.time = 0
    if not 0 <= call.seconds < math.inf:
        call.seconds = 0
    return call
