"""A command's way to the mesh: one question, or a stream of answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import purerpc
import trio

from meshtrio.cli.error_report import MeshRequestError
from meshtrio.cli.stdio import wait_stdout_writable
from meshtrio.client.dynamic_stub import DynamicStub
from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.errors import NoMeshError
from meshtrio.messages import control as control_messages
from meshtrio.messages import health
from meshtrio.messages import registry as registry_messages
from meshtrio.runtime_dir.trust import find_mesh_socket
from meshtrio.util.concurrency import collapse_group

T = TypeVar("T")

_REPLY_TIMEOUT = 10.0
"""Seconds within which a mesh that is well has long answered."""
_HEALTH = health.DESCRIPTOR.services_by_name["Health"]
_CONTROL = control_messages.DESCRIPTOR.services_by_name["Control"]
_REGISTRY = registry_messages.DESCRIPTOR.services_by_name["Registry"]


def run_async(function: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run it in trio. Raises the one error that there is, not a group of one."""
    try:
        return trio.run(function, *args)
    except BaseExceptionGroup as group:
        raise collapse_group(group) from None


@asynccontextmanager
async def open_control_stub(mesh_socket: Path | None) -> AsyncIterator[Any]:
    """A stub of meshtrio.v1.Control. Raises NoMeshError, and RefusedError with what it says no."""
    async with _open_stub(_CONTROL, mesh_socket) as stub:
        yield stub


@asynccontextmanager
async def open_registry_stub(mesh_socket: Path | None) -> AsyncIterator[Any]:
    """The same for meshtrio.v1.Registry."""
    async with _open_stub(_REGISTRY, mesh_socket) as stub:
        yield stub


@asynccontextmanager
async def _open_stub(service: Any, mesh_socket: Path | None) -> AsyncIterator[Any]:
    with _translate_errors(mesh_socket):
        async with connect_to_mesh(mesh_socket) as channel:
            # What is asked may take its time, or begin with nothing to tell.
            with reply_timeout(mesh_socket):
                await DynamicStub(channel, _HEALTH).Check(health.HealthCheckRequest())
            yield DynamicStub(channel, service)


@contextmanager
def _translate_errors(mesh_socket: Path | None) -> Iterator[None]:
    try:
        yield
    except NoMeshError:
        raise
    except purerpc.UnavailableError as exc:
        where = mesh_socket or find_mesh_socket()
        raise NoMeshError(f"the mesh at {where} has gone: {exc.status.status_message}") from None
    except purerpc.RpcFailedError as exc:
        raise MeshRequestError(exc.status) from None


@contextmanager
def reply_timeout(mesh_socket: Path | None) -> Iterator[None]:
    """For a question that is answered at once. Raises NoMeshError where it is not."""
    with trio.move_on_after(_REPLY_TIMEOUT) as scope:
        yield
    if scope.cancelled_caught:
        where = mesh_socket or find_mesh_socket()
        raise NoMeshError(
            f"the mesh at {where} takes connections, but has not answered for "
            f"{_REPLY_TIMEOUT:g} s: is "
            "it stopped?"
        )


def call_control(mesh_socket: Path | None, method: str, request: Any) -> Any:
    """Put one question to meshtrio.v1.Control, and give the answer."""

    async def put() -> Any:
        async with open_control_stub(mesh_socket) as stub:
            return await getattr(stub, method)(request)

    return run_async(put)


def stream_control(
    mesh_socket: Path | None, method: str, request: Any, on_message: Callable[[Any], None]
) -> None:
    """Have each message of a stream taken, until it ends, or Ctrl-C."""

    async def receive() -> None:
        async with open_control_stub(mesh_socket) as stub:
            async with getattr(stub, method)(request) as call:
                async for message in call:
                    await wait_stdout_writable()
                    on_message(message)

    run_async(receive)
