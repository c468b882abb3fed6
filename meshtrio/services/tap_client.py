"""Reads the calls that instances serve, by meshtrio.v1.Tap of each of them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio
from google.protobuf.message import DecodeError

from meshtrio.client.channel import open_endpoint_channel
from meshtrio.client.multicallable import RawReply, make_multicallable, make_raw_method
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.messages import tap
from meshtrio.services import instances
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.protobuf_wire import MalformedProtobufError, iter_fields

_WATCH_METHOD = make_raw_method(tap.DESCRIPTOR.services_by_name["Tap"].methods_by_name["Watch"])
_MAX_BUFFERED_BATCHES = 4
"""Maximum number of batches that wait for the reader; instances buffer what comes meanwhile."""
_RETRY_DELAY = 0.5
"""Seconds until the stream of an instance is opened again."""
_MIN_BATCH_INTERVAL = 0.02
"""Minimum seconds between two batches of an instance."""
_MAX_CALLS = 1000
"""Maximum number of calls in one message: what meshtrio's servicer buffers for a slow reader."""
_MAX_OTHER_BYTES = 1024
"""Maximum bytes of a message in fields other than its calls."""


@attrs.frozen
class TappedCalls:
    """A batch of calls that one instance has served."""

    service: str
    instance: int
    calls: Sequence[Any] | None = None
    """Messages of meshtrio.v1.EndedCall; None if the instance does not serve meshtrio.v1.Tap."""
    missed: int = 0
    """Number of calls before these that were dropped."""


@asynccontextmanager
async def tap_instances(
    registry: Registry, is_wanted: Callable[[str], bool], request: Any
) -> AsyncIterator[trio.MemoryReceiveChannel[TappedCalls]]:
    """Yield a channel with the calls of all instances of the wanted services, also later ones."""
    sending, receiving = trio.open_memory_channel[TappedCalls](_MAX_BUFFERED_BATCHES)

    async def watch(key: instances.InstanceKey, endpoint: Endpoint) -> None:
        async def send(response: RawReply) -> None:
            await sending.send(_parse_calls(key, response.data))

        async with open_endpoint_channel(endpoint, traced=False) as channel:
            call = make_multicallable(channel, _WATCH_METHOD)
            await instances.read_stream_repeatedly(
                lambda: call(request),
                send,
                min_interval=_MIN_BATCH_INTERVAL,
                retry_delay=_RETRY_DELAY,
            )
            await sending.send(TappedCalls(*key))

    async with open_collapsing_nursery() as nursery:
        nursery.start_soon(instances.for_each_ready_instance, registry, watch, is_wanted)
        yield receiving
        nursery.cancel_scope.cancel()


def _parse_calls(key: instances.InstanceKey, data: bytes) -> TappedCalls:
    """Parse a meshtrio.v1.EndedCalls. Raises MalformedProtobufError."""
    calls, other_fields = [], bytearray()
    try:
        for number, begin, value, end in iter_fields(data):
            if number != tap.EndedCalls.CALLS_FIELD_NUMBER or value < 0:
                other_fields += data[begin:end]
            else:
                calls.append(_sanitize_call(data[value:end]))
            if len(calls) > _MAX_CALLS or len(other_fields) > _MAX_OTHER_BYTES:
                raise MalformedProtobufError(f"a message has more than {_MAX_CALLS} calls")
        return TappedCalls(*key, calls, tap.EndedCalls.FromString(bytes(other_fields)).missed)
    except DecodeError as exc:
        raise MalformedProtobufError(str(exc)) from None


def _sanitize_call(data: bytes) -> Any:
    """Parse a call and clear times that are negative or not finite. Raises DecodeError."""
    call = tap.EndedCall.FromString(data)
    call.DiscardUnknownFields()
    if not math.isfinite(call.time):
        call.time = 0
    if not 0 <= call.seconds < math.inf:
        call.seconds = 0
    return call
