"""The calls that plugins serve, gathered for who watches them at the mesh."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.client.channel import Channel
from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.client.endpoint import Endpoint
from meshtrio.messages import tap
from meshtrio.registry import Registry
from meshtrio.services.attending import Key, attend, channel_to_instance
from meshtrio.structured import open_nursery_of_one

_SERVICE = tap.DESCRIPTOR.services_by_name["Tap"]
_WAITING = 16
"""Lots of calls that wait to be told; instances keep what comes meanwhile, as far as they do."""
_AGAIN = 0.5


@attrs.frozen
class Tapped:
    """What one instance tells."""

    service: str
    instance: int
    calls: Any = None
    """Of meshtrio.v1.EndedCalls; None for an instance that does not tell of its calls."""


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
    stub = DynamicStub(channel, _SERVICE)
    while True:
        try:
            async for calls in stub.Watch(request):
                await sending.send(Tapped(*key, calls))
        except purerpc.UnimplementedError:
            await sending.send(Tapped(*key))
            return
        except purerpc.RpcFailedError:
            await trio.sleep(_AGAIN)
