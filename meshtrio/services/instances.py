"""What is done with each instance that is ready: asked something, or followed as long as it is."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from meshtrio.client.channel import Channel, open_channel
from meshtrio.client.resolver import StateCallback
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.discovery.service_state import ServiceState

_log = logging.getLogger("meshtrio.mesh")

_POLL_INTERVAL = 0.5
"""Seconds between two looks for instances that are new or gone."""
MAX_SMALL_RESPONSE_SIZE = 16 * 1024
"""Bytes of an answer that consists of a few numbers or names."""

InstanceKey = tuple[str, int]
"""A service and the number of an instance."""


def get_ready_endpoints(
    registry: Registry, is_wanted: Callable[[str], bool] = lambda _: True
) -> dict[InstanceKey, Endpoint]:
    """The instances of the services that are ready now, and where."""
    return {
        (service, endpoint.instance): endpoint
        for service in registry.services()
        if is_wanted(service)
        for endpoint in registry.resolve(service).endpoints
        if endpoint.pid
    }


@asynccontextmanager
async def open_instance_channel(
    endpoint: Endpoint, max_response_size: int | None = None
) -> AsyncIterator[Channel]:
    """A channel to one instance, for what the mesh itself asks of it: it is not counted.

    Args:
        endpoint: Of the instance.
        max_message: Bytes of the longest answer that is taken; 4 MiB by default.
    """

    async def feed(update: StateCallback) -> None:
        update(ServiceState((endpoint,)))

    async with open_channel(
        endpoint.address,
        feed,
        exit_info_timeout=0,
        traced=False,
        max_receive_message_length=max_response_size,
    ) as channel:
        yield channel


async def for_each_ready_instance(
    registry: Registry,
    task: Callable[[InstanceKey, Endpoint], Awaitable[None]],
    is_wanted: Callable[[str], bool] = lambda _: True,
) -> None:
    """Run the task for each instance that is ready, and cancel it when that is gone; until
    cancelled. A task that ends by itself is not started again for the same process."""
    attended: dict[InstanceKey, tuple[Endpoint, trio.CancelScope]] = {}
    async with trio.open_nursery() as nursery:
        while True:
            there = get_ready_endpoints(registry, is_wanted)
            for key, (endpoint, scope) in list(attended.items()):
                if there.get(key) != endpoint:
                    scope.cancel()
                    del attended[key]
            for key, endpoint in there.items():
                if key not in attended:
                    attended[key] = (endpoint, trio.CancelScope())
                    nursery.start_soon(_run_in_scope, attended[key][1], task, key, endpoint)
            await trio.sleep(_POLL_INTERVAL)


async def _run_in_scope(
    scope: trio.CancelScope,
    task: Callable[[InstanceKey, Endpoint], Awaitable[None]],
    key: InstanceKey,
    endpoint: Endpoint,
) -> None:
    with scope:
        try:
            await task(key, endpoint)
        except Exception:
            # Whatever an instance answers costs what was asked of it, not those who attend others.
            _log.exception("what %s/%d answers cannot be used", *key)
