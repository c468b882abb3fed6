"""What is done with each instance that is ready: asked something, or followed as long as it is."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from meshtrio.client.channel import Channel, open_channel
from meshtrio.client.endpoint import Endpoint, ServiceState
from meshtrio.client.pool import Update
from meshtrio.registry import Registry

_log = logging.getLogger("meshtrio.mesh")

_INTERVAL = 0.5
"""Seconds between two looks for instances that are new or gone."""
SMALL = 16 * 1024
"""Bytes of an answer that consists of a few numbers or names."""

Key = tuple[str, int]
"""A service and the number of an instance."""


def ready(
    registry: Registry, wanted: Callable[[str], bool] = lambda _: True
) -> dict[Key, Endpoint]:
    """The instances of the services that are ready now, and where."""
    return {
        (service, endpoint.instance): endpoint
        for service in registry.services()
        if wanted(service)
        for endpoint in registry.resolve(service).endpoints
        if endpoint.pid
    }


@asynccontextmanager
async def channel_to_instance(
    endpoint: Endpoint, max_message: int | None = None
) -> AsyncIterator[Channel]:
    """A channel to one instance, for what the mesh itself asks of it: it is not counted.

    Args:
        endpoint: Of the instance.
        max_message: Bytes of the longest answer that is taken; 4 MiB by default.
    """

    async def feed(update: Update) -> None:
        update(ServiceState((endpoint,)))

    async with open_channel(
        endpoint.address,
        feed,
        obituary_wait=0,
        observed=False,
        max_receive_message_length=max_message,
    ) as channel:
        yield channel


async def attend(
    registry: Registry,
    task: Callable[[Key, Endpoint], Awaitable[None]],
    wanted: Callable[[str], bool] = lambda _: True,
) -> None:
    """Run the task for each instance that is ready, and cancel it when that is gone; until
    cancelled. A task that ends by itself is not started again for the same process."""
    attended: dict[Key, tuple[Endpoint, trio.CancelScope]] = {}
    async with trio.open_nursery() as nursery:
        while True:
            there = ready(registry, wanted)
            for key, (endpoint, scope) in list(attended.items()):
                if there.get(key) != endpoint:
                    scope.cancel()
                    del attended[key]
            for key, endpoint in there.items():
                if key not in attended:
                    attended[key] = (endpoint, trio.CancelScope())
                    nursery.start_soon(_within, attended[key][1], task, key, endpoint)
            await trio.sleep(_INTERVAL)


async def _within(
    scope: trio.CancelScope,
    task: Callable[[Key, Endpoint], Awaitable[None]],
    key: Key,
    endpoint: Endpoint,
) -> None:
    with scope:
        try:
            await task(key, endpoint)
        except Exception:
            # Whatever an instance answers costs what was asked of it, not those who attend others.
            _log.exception("what %s/%d answers cannot be used", *key)
