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
from meshtrio.rpc.listener import unix_listener
from meshtrio.rpc.server import Server
from meshtrio.runtime_dir import Claim
from meshtrio.structured import next_beat, running

_log = logging.getLogger("meshtrio.mesh")

_LOOK_EVERY = 1.0


async def serve_mesh_socket(
    path: Path,
    claim: Claim,
    server: Server,
    shared: Callable[[], bool],
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
        async with running(server.serve, bound.enter_context(unix_listener(path))):
            task_status.started()
            try:
                while True:
                    await _until_lost(path, claim, shared)
                    _log.error("%s was removed; making it again", path)
                    before, bound = bound, ExitStack()
                    # The server closes the socket before when it moves.
                    with before:
                        server.move_to(await _bind_again(path, claim, bound))
            finally:
                with trio.CancelScope(shield=True):
                    await server.shut_down(grace)


async def _bind_again(path: Path, claim: Claim, bound: ExitStack) -> socket.socket:
    while True:
        try:
            if claim.lost:
                claim.renew()
            return bound.enter_context(unix_listener(path))
        except (MeshtrioError, OSError) as exc:
            _log.error("cannot make it again: %s; trying again", exc)
            await trio.sleep(_LOOK_EVERY)


def _set_mode(path: Path, ours: os.stat_result, claim: Claim, shared: bool) -> None:
    """Let other users connect, or not. Raises FileNotFoundError if the socket is no longer ours."""
    if shared:
        claim.let_others_pass()
    file = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not os.path.samestat(os.fstat(file), ours):
            raise FileNotFoundError
        # Who may do what is asked of each call. A descriptor like this one has no fchmod(2).
        by_descriptor = f"/proc/self/fd/{file}"
        where = by_descriptor if os.path.lexists(by_descriptor) else path
        os.chmod(where, 0o666 if shared else 0o600)
    finally:
        os.close(file)


async def _until_lost(path: Path, claim: Claim, shared: Callable[[], bool]) -> None:
    """Wait until the path or its folder is gone or another's; keep its mode as it should be."""
    ours: os.stat_result | None = None
    mode_for, problem = None, ""
    while True:
        try:
            found = os.lstat(path)
            ours = ours or found
            if claim.lost or not os.path.samestat(found, ours):
                return
            if shared() is not mode_for:
                mode_for = shared()
                _set_mode(path, ours, claim, mode_for)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as exc:
            if str(exc) != problem:
                problem = str(exc)
                _log.error("%s cannot be looked after: %s; trying again", path, exc.strerror)
        await next_beat(_LOOK_EVERY)
