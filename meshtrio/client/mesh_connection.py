"""Connections to the mesh socket: of the CLI, of other clients, and of registrars."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from meshtrio.client.channel import Channel, connect_to
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.errors import NoMeshError, UntrustedMeshError
from meshtrio.http2.limits import UNLIMITED
from meshtrio.runtime_dir.trust import find_mesh_socket, trusted_uids
from meshtrio.transport.dial import WrongServerError, connect_socket
from meshtrio.util.concurrency import require_trio
from meshtrio.util.errors import RESOURCE_EXHAUSTED_ERRNOS

ACCEPT_TIMEOUT = 5.0
"""Seconds that a mesh whose accept queue is full has to accept a connection."""


def mesh_socket_endpoint(mesh_socket: Path | str | None = None) -> Endpoint:
    """Return the endpoint of a mesh socket, with the users that may serve on it.

    Args:
        mesh_socket: The path of the socket. By default the environment's MESH_SOCKET, else
            `mesh.sock` in the default runtime directory, where only the caller's user and root are
            trusted.

    Raises:
        UntrustedMeshError: The default runtime directory belongs to another user.
    """
    trusted = trusted_uids(mesh_socket)
    address = f"unix:{os.path.abspath(mesh_socket or find_mesh_socket())}"
    owner = None if trusted is None else os.geteuid()
    return Endpoint(id=address, address=address, server_uid=owner, allow_root=True)


@asynccontextmanager
async def connect_to_mesh(
    mesh_socket: Path | str | None = None, *, accept_timeout: float = ACCEPT_TIMEOUT
) -> AsyncIterator[Channel]:
    """Open a channel to the services of the mesh itself: control, registry, health, reflection.

    Args:
        mesh_socket: As in `mesh_socket_endpoint`.
        accept_timeout: Seconds that a mesh whose accept queue is full has to accept a connection.

    Yields:
        A channel without a limit on the length of the messages that it receives.

    Raises:
        NoMeshError: No mesh answers.
        UntrustedMeshError: Another user serves, or could serve, in the mesh's place.
    """
    require_trio("connect_to_mesh")
    where = mesh_socket_endpoint(mesh_socket)
    await check_mesh_answers(where, accept_timeout)
    async with connect_to(where, max_receive_message_length=UNLIMITED) as channel:
        yield channel


async def check_mesh_answers(
    where: Endpoint, accept_timeout: float = ACCEPT_TIMEOUT, since: float | None = None
) -> None:
    """Connect to a mesh socket once, since calls report only UNAVAILABLE, whatever the errno was.

    Args:
        where: The mesh socket.
        accept_timeout: As in `connect_to_mesh`.
        since: Time from which on it counts; now by default.

    Raises:
        NoMeshError: No mesh answers.
        UntrustedMeshError: Another user serves, or could serve, in the mesh's place.
    """
    path, uids = where.address.removeprefix("unix:"), where.allowed_server_uids
    waited = 0.0 if since is None else trio.current_time() - since
    time_left = max(accept_timeout - waited, 0.0)
    try:
        (await connect_socket(where.address, uids, backlog_timeout=time_left)).close()
    except WrongServerError as exc:
        raise UntrustedMeshError(
            f"{path} is not the socket of a mesh of this user or of root: {exc.reason}; to call "
            "this mesh, set MESH_SOCKET"
        ) from None
    except OSError as exc:
        raise NoMeshError(_describe_failure(exc, path, accept_timeout)) from None


def _describe_failure(error: OSError, path: str, accept_timeout: float) -> str:
    if isinstance(error, BlockingIOError):
        problem = f"accepted no connection within {accept_timeout:g} s"
        return f"the mesh at {path} {problem}: it is overloaded or stopped"
    if isinstance(error, PermissionError):
        hint = "see [mesh.access] in the mesh's config"
        return f"permission denied on the mesh socket {path}; {hint}"
    reason = error.strerror or error
    if error.errno in RESOURCE_EXHAUSTED_ERRNOS:
        hint = "in this process (see `ulimit -n`)"
        return f"cannot connect to the mesh at {path}: {reason} {hint}"
    hint = "start one with `meshtrio serve`, or set MESH_SOCKET to the socket of a running one"
    return f"no mesh answers at {path} ({reason}); {hint}"
