"""Reads the calls that instances serve, by meshtrio.v1.Tap of each of them."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import trio
from google.protobuf.message import DecodeError

from meshtrio.client.multicallable import make_raw_method
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.messages import control, tap
from meshtrio.services import instances
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.protobuf_wire import MalformedProtobufError, split_repeated

_WATCH_METHOD = make_raw_method(tap.DESCRIPTOR.services_by_name["Tap"].methods_by_name["Watch"])
_MAX_BUFFERED_BATCHES = 4
"""Maximum number of batches that wait for the reader; instances buffer what comes meanwhile."""
_RETRY_DELAY = 0.5
"""Seconds until the stream of an instance is opened again."""
_MIN_BATCH_INTERVAL = 0.02
"""Minimum seconds between two batches of an instance."""
_MAX_CALLS = 1000
"""Maximum number of calls in one message: what meshtrio's servicer buffers for a slow reader."""


@asynccontextmanager
async def tap_instances(
    registry: Registry, plugins: Mapping[str, str], request: Any
) -> AsyncIterator[trio.MemoryReceiveChannel[list[Any]]]:
    """Yield a channel with the calls of all instances of services, also of later instances.

    Args:
        registry: The registry with the instances.
        plugins: The plugin of each service.
        request: The WatchCallsRequest for the instances.

    Yields:
        Batches of control.WatchedCall: one for each call, or one for an instance that has no Tap.
    """
    sending, receiving = trio.open_memory_channel[list[Any]](_MAX_BUFFERED_BATCHES)

    async def handle(key: instances.InstanceKey, _: Endpoint, response: Any) -> None:
        make_message = partial(control.WatchedCall, plugin=plugins[key[0]], instance=key[1])
        if response is instances.FailureKind.UNSUPPORTED:
            await sending.send([make_message(silent=True)])
        elif not isinstance(response, instances.FailureKind):
            calls, missed = _parse_calls(response.data)
            numbered = enumerate(calls)
            await sending.send(
                [make_message(call=call, missed=0 if n else missed) for n, call in numbered]
            )

    read_calls = partial(
        instances.read_from_each_instance,
        registry,
        _WATCH_METHOD,
        request,
        handle,
        is_wanted=plugins.__contains__,
        min_interval=_MIN_BATCH_INTERVAL,
        retry_delay=_RETRY_DELAY,
    )
    async with open_collapsing_nursery() as nursery:
        nursery.start_soon(read_calls)
        yield receiving
        nursery.cancel_scope.cancel()


def _parse_calls(data: bytes) -> tuple[list[Any], int]:
    """Return the calls of an EndedCalls, and how many are missing before them.

    Raises MalformedProtobufError.
    """
    calls, rest = split_repeated(data, tap.EndedCalls.CALLS_FIELD_NUMBER, _MAX_CALLS, "calls")
    try:
        missed = tap.EndedCalls.FromString(rest).missed
        return [_sanitize_call(data[begin:end]) for begin, end in calls], missed
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
