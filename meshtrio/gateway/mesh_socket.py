"""Serves on the mesh socket, and binds it again if it is removed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import trio

from meshtrio.rpc.server import Server
from meshtrio.runtime_dir.claim import ClaimedRuntimeDir
from meshtrio.transport.listener import unix_listener
from meshtrio.util.concurrency import background_service, sleep_until_tick
from meshtrio.util.errors import MeshtrioError
from meshtrio.util.log_once import ReasonChangeLogger

_log = logging.getLogger("meshtrio.mesh")

_CHECK_INTERVAL = 1.0
"""Seconds between two checks of the socket."""


async def serve_mesh_socket(
    path: Path,
    claim: ClaimedRuntimeDir,
    server: Server,
    is_shared: Callable[[], bool],
    grace: float,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on the mesh socket until cancelled, then shut the server down.

    If the socket or its directory is removed, both are created again within a second. Connected
    clients stay connected, and their calls continue.

    `is_shared` returns whether other users may connect; access is checked for each call. `grace` is
    the timeout of `Server.shut_down`, in seconds.

    Raises:
        UsageError: The socket cannot be bound at the start.
    """
    with ExitStack() as stack:
        bound = ExitStack()
        stack.callback(lambda: bound.close())
        async with background_service(server.serve, bound.enter_context(unix_listener(path))):
            task_status.started()
            try:
                while True:
                    await _wait_until_lost(path, claim, is_shared)
                    _log.error("mesh socket %s was removed; recreating", path)
                    previous, bound = bound, ExitStack()
                    # The server closes the previous socket when it moves.
                    with previous:
                        server.replace_listener(await _rebind(path, claim, bound))
            finally:
                with trio.CancelScope(shield=True):
                    await server.shut_down(grace)


async def _rebind(path: Path, claim: ClaimedRuntimeDir, socket_stack: ExitStack) -> socket.socket:
    while True:
        try:
            if claim.is_lost:
                claim.recreate()
            return socket_stack.enter_context(unix_listener(path))
        except (MeshtrioError, OSError) as exc:
            _log.error("cannot recreate the mesh socket: %s; retrying", exc)
            await trio.sleep(_CHECK_INTERVAL)


def _set_mode(
    path: Path, own_stat: os.stat_result, claim: ClaimedRuntimeDir, is_shared: bool
) -> None:
    """Set the mode of the socket. Raises FileNotFoundError if it is no longer ours."""
    if is_shared:
        claim.allow_traversal()
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(fd), own_stat):
            raise FileNotFoundError
        # Access is checked for each call. An O_PATH descriptor does not support fchmod(2).
        fd_path = f"/proc/self/fd/{fd}"
        os.chmod(fd_path if os.path.lexists(fd_path) else path, 0o666 if is_shared else 0o600)
    finally:
        os.close(fd)


async def _wait_until_lost(
    path: Path, claim: ClaimedRuntimeDir, is_shared: Callable[[], bool]
) -> None:
    """Wait until the path or its directory is gone or replaced; meanwhile keep the mode set."""
    own_stat: os.stat_result | None = None
    applied_shared: bool | None = None
    failures = ReasonChangeLogger(_log, level=logging.ERROR)
    while True:
        try:
            found = os.lstat(path)
            own_stat = own_stat or found
            if claim.is_lost or not os.path.samestat(found, own_stat):
                return
            if is_shared() is not applied_shared:
                applied_shared = is_shared()
                _set_mode(path, own_stat, claim, applied_shared)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            text = "cannot check the mesh socket %s: %s; retrying"
            failures.log(str(exc), text, path, exc.strerror)
        await sleep_until_tick(_CHECK_INTERVAL)
