"""A command's way to the mesh: one question, or a stream of answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import purerpc
import trio

from meshtrio import mesh
from meshtrio.cli.failures import RefusedError
from meshtrio.cli.pipes import until_stdout_takes_more
from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.errors import NoMeshError
from meshtrio.messages import control as control_messages
from meshtrio.messages import health
from meshtrio.messages import registry as registry_messages
from meshtrio.runtime_dir import find_mesh_socket
from meshtrio.structured import settle

T = TypeVar("T")

_PATIENCE = 10.0
"""Seconds within which a mesh that is well has long answered."""
_HEALTH = health.DESCRIPTOR.services_by_name["Health"]
_CONTROL = control_messages.DESCRIPTOR.services_by_name["Control"]
_REGISTRY = registry_messages.DESCRIPTOR.services_by_name["Registry"]


def run(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run it in trio. Raises the one error that there is, not a group of one."""
    try:
        return trio.run(function, *args)
    except BaseExceptionGroup as group:
        raise settle(group) from None


@asynccontextmanager
async def control(mesh_socket: Path | None) -> AsyncIterator[Any]:
    """A stub of meshtrio.v1.Control. Raises NoMeshError, and RefusedError with what it says no."""
    async with _stub(_CONTROL, mesh_socket) as stub:
        yield stub


@asynccontextmanager
async def registry(mesh_socket: Path | None) -> AsyncIterator[Any]:
    """The same for meshtrio.v1.Registry."""
    async with _stub(_REGISTRY, mesh_socket) as stub:
        yield stub


@asynccontextmanager
async def _stub(service: Any, mesh_socket: Path | None) -> AsyncIterator[Any]:
    with _told(mesh_socket):
        async with mesh.connect_to_mesh(mesh_socket) as channel:
            # What is asked may take its time, or begin with nothing to tell.
            with patience(mesh_socket):
                await DynamicStub(channel, _HEALTH).Check(health.HealthCheckRequest())
            yield DynamicStub(channel, service)


@contextmanager
def _told(mesh_socket: Path | None) -> Iterator[None]:
    try:
        yield
    except NoMeshError:
        raise
    except purerpc.UnavailableError as exc:
        where = mesh_socket or find_mesh_socket()
        raise NoMeshError(f"the mesh at {where} has gone: {exc.status.status_message}") from None
    except purerpc.RpcFailedError as exc:
        raise RefusedError(exc.status) from None


@contextmanager
def patience(mesh_socket: Path | None) -> Iterator[None]:
    """For a question that is answered at once. Raises NoMeshError where it is not."""
    with trio.move_on_after(_PATIENCE) as scope:
        yield
    if scope.cancelled_caught:
        where = mesh_socket or find_mesh_socket()
        raise NoMeshError(
            f"the mesh at {where} takes connections, but has not answered for {_PATIENCE:g} s: is "
            "it stopped?"
        )


def ask(mesh_socket: Path | None, method: str, request: Any) -> Any:
    """Put one question to meshtrio.v1.Control, and give the answer."""

    async def put() -> Any:
        async with control(mesh_socket) as stub:
            return await getattr(stub, method)(request)

    return run(put)


def follow(
    mesh_socket: Path | None, method: str, request: Any, take: Callable[[Any], None]
) -> None:
    """Have each message of a stream taken, until it ends, or Ctrl-C."""

    async def receive() -> None:
        async with control(mesh_socket) as stub:
            async for message in getattr(stub, method)(request):
                await until_stdout_takes_more()
                take(message)

    run(receive)
