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

from meshtrio.client.calls import stub_method
from meshtrio.client.channel import Channel
from meshtrio.client.endpoint import Endpoint
from meshtrio.client.raw import raw_method_of
from meshtrio.messages import tap
from meshtrio.registry import Registry
from meshtrio.services.attending import Key, attend, channel_to_instance
from meshtrio.structured import open_nursery_of_one
from meshtrio.wire.protobuf import MalformedError, fields

_WATCH = raw_method_of(tap.DESCRIPTOR.services_by_name["Tap"].methods_by_name["Watch"])
_WAITING = 4
"""Lots of calls that wait to be told; instances keep what comes meanwhile, as far as they do."""
_AGAIN = 0.5
_REST = 0.02
_MAX_CALLS = 1000
"""In one message: so many does meshtrio keep for a reader that is late."""
_MAX_REST = 1024
"""Bytes of a message that are no calls."""


@attrs.frozen
class Tapped:
    """What one instance tells."""

    service: str
    instance: int
    calls: Sequence[Any] | None = None
    """Of meshtrio.v1.EndedCall; None for an instance that does not tell of its calls."""
    missed: int = 0
    """Number of calls before these that were left out."""


@asynccontextmanager
async def tapping(
    registry: Registry, wanted: Callable[[str], bool], request: Any
) -> AsyncIterator[trio.MemoryReceiveChannel[Tapped]]:
    """Watch the instances of the services that are wanted, those too that come later."""
    sending, receiving = trio.open_memory_channel[Tapped](_WAITING)

    async def watch(key: Key, endpoint: Endpoint) -> None:
        async with channel_to_instance(endpoint) as channel:
            await _follow(channel, key, request, sending)

    async with open_nursery_of_one() as nursery:
        nursery.start_soon(attend, registry, watch, wanted)
        yield receiving
        nursery.cancel_scope.cancel()


async def _follow(
    channel: Channel, key: Key, request: Any, sending: trio.MemorySendChannel[Tapped]
) -> None:
    watch = stub_method(channel, _WATCH)
    while True:
        try:
            async for reply in watch(request):
                await sending.send(_tapped(key, reply.data))
                # One that does not rest between two lots waits for its window.
                await trio.sleep(_REST)
        except purerpc.UnimplementedError:
            await sending.send(Tapped(*key))
            return
        except (purerpc.RpcFailedError, MalformedError):
            await trio.sleep(_AGAIN)


def _tapped(key: Key, data: bytes) -> Tapped:
    """What a meshtrio.v1.EndedCalls says. Raises MalformedError for what is none."""
    calls, rest = [], bytearray()
    for number, begin, value, end in fields(data):
        if number != tap.EndedCalls.CALLS_FIELD_NUMBER or value < 0:
            rest += data[begin:end]
        else:
            calls.append(_sound(data[value:end]))
        if len(calls) > _MAX_CALLS or len(rest) > _MAX_REST:
            raise MalformedError(f"there is more in it than {_MAX_CALLS} calls")
    try:
        return Tapped(*key, calls, tap.EndedCalls.FromString(bytes(rest)).missed)
    except DecodeError as exc:
        raise MalformedError(str(exc)) from None


def _sound(data: bytes) -> Any:
    """A call without times that are none. Raises MalformedError."""
    try:
        call = tap.EndedCall.FromString(data)
    except DecodeError as exc:
        raise MalformedError(str(exc)) from None
    call.DiscardUnknownFields()
    if not math.isfinite(call.time):
        call.time = 0
    if not 0 <= call.seconds < math.inf:
        call.seconds = 0
    return call
