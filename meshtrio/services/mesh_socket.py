"""The mesh socket: bound in the runtime dir, and bound again if it was removed."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import trio

from meshtrio.errors import MeshtrioError
from meshtrio.rpc.server import Server
from meshtrio.runtime_dir.claim import ClaimedRuntimeDir
from meshtrio.transport.listener import unix_listener
from meshtrio.util.concurrency import background_service, sleep_until_tick

_log = logging.getLogger("meshtrio.mesh")

_CHECK_INTERVAL = 1.0


async def serve_mesh_socket(
    path: Path,
    claim: ClaimedRuntimeDir,
    server: Server,
    is_shared: Callable[[], bool],
    grace: float,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on `path`, in the folder that is claimed, until cancelled; then shut the server down.

    If the folder or the socket is removed, both are made again within a second. Clients that are
    connected stay connected, and their calls go on.

    Args:
        path: The mesh socket.
        claim: The runtime dir.
        server: Is served on one listening socket after the other.
        shared: Whether other users may connect, and be told what they may do.
        grace: Seconds for `Server.shut_down`.
        task_status: Reports started once the socket is bound.

    Raises:
        UsageError: The socket cannot be bound at first.
    """
    with ExitStack() as last:
        bound = ExitStack()
        last.callback(lambda: bound.close())
        async with background_service(server.serve, bound.enter_context(unix_listener(path))):
            task_status.started()
            try:
                while True:
                    await _wait_until_lost(path, claim, is_shared)
                    _log.error("%s was removed; making it again", path)
                    before, bound = bound, ExitStack()
                    # The server closes the socket before when it moves.
                    with before:
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
            _log.error("cannot make it again: %s; trying again", exc)
            await trio.sleep(_CHECK_INTERVAL)


def _set_mode(
    path: Path, own_stat: os.stat_result, claim: ClaimedRuntimeDir, is_shared: bool
) -> None:
    """Let other users connect, or not. Raises FileNotFoundError if the socket is no longer ours."""
    if is_shared:
        claim.allow_traversal()
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(file), own_stat):
            raise FileNotFoundError
        # Who may do what is asked of each call. A descriptor like this one has no fchmod(2).
        by_descriptor = f"/proc/self/fd/{file}"
        where = by_descriptor if os.path.lexists(by_descriptor) else path
        os.chmod(where, 0o666 if is_shared else 0o600)
    finally:
        os.close(file)


async def _wait_until_lost(
    path: Path, claim: ClaimedRuntimeDir, is_shared: Callable[[], bool]
) -> None:
    """Wait until the path or its folder is gone or another's; keep its mode as it should be."""
    ours: os.stat_result | None = None
    mode_for, problem = None, ""
    while True:
        try:
            found = os.lstat(path)
            ours = ours or found
            if claim.is_lost or not os.path.samestat(found, ours):
                return
            if is_shared() is not mode_for:
                mode_for = is_shared()
                _set_mode(path, ours, claim, mode_for)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            if str(exc) != problem:
                problem = str(exc)
                _log.error("%s cannot be looked after: %s; trying again", path, exc.strerror)
        await sleep_until_tick(_CHECK_INTERVAL)
