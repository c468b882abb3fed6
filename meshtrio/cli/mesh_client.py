"""Stubs of the mesh's own services, for commands."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import purerpc
import trio

from meshtrio.cli.error_report import MeshRequestError
from meshtrio.client.channel import Channel
from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub
from meshtrio.errors import NoMeshError
from meshtrio.messages import control, health, registry
from meshtrio.runtime_dir.trust import find_mesh_socket
from meshtrio.util.concurrency import collapse_group

T = TypeVar("T")

_REPLY_TIMEOUT = 10.0
"""Seconds without a reply after which a mesh counts as hung."""
_HEALTH = health.DESCRIPTOR.services_by_name["Health"]


def run_async(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run `function` in trio. A group of one exception is raised as that exception."""
    try:
        return trio.run(function, *args)
    except BaseExceptionGroup as group:
        raise collapse_group(group) from None


def run_with_channel(
    function: Callable[[Channel], Awaitable[T]],
    mesh_socket: Path | None,
    timeout: float = math.inf,
) -> T:
    """Run `function(channel)` in trio, with a channel to the mesh's own services.

    Raises NoMeshError, MeshRequestError, and TooSlowError after `timeout` seconds.
    """

    async def run() -> T:
        with trio.fail_after(timeout):
            async with connect_to_mesh(mesh_socket) as channel:
                # The request itself may take long, or have no replies for a while.
                with trio.move_on_after(_REPLY_TIMEOUT) as scope:
                    await DynamicStub(channel, _HEALTH).Check(health.HealthCheckRequest())
                if scope.cancelled_caught:
                    raise NoMeshError(
                        f"the mesh at {mesh_socket or find_mesh_socket()} takes connections, but "
                        f"has not answered for {_REPLY_TIMEOUT:g} s: is it stopped?"
                    )
                return await function(channel)

    try:
        return run_async(run)
    except NoMeshError:
        raise
    except purerpc.UnavailableError as exc:
        where = mesh_socket or find_mesh_socket()
        raise NoMeshError(f"lost the mesh at {where}: {exc.status.status_message}") from None
    except purerpc.RpcFailedError as exc:
        raise MeshRequestError(exc.status) from None


def _run_with_stub(
    service: Any,
    function: Callable[[Any], Awaitable[T]],
    mesh_socket: Path | None,
    timeout: float = math.inf,
) -> T:
    """As `run_with_channel`, with a stub of one of the mesh's services."""

    async def run(channel: Channel) -> T:
        return await function(DynamicStub(channel, service))

    return run_with_channel(run, mesh_socket, timeout)


run_with_control = partial(_run_with_stub, control.DESCRIPTOR.services_by_name["Control"])
run_with_registry = partial(_run_with_stub, registry.DESCRIPTOR.services_by_name["Registry"])
