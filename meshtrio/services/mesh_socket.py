"""The mesh socket: bound in the runtime dir, and bound again when somebody has removed it."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
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
    make_server: Callable[[], Server],
    shared: Callable[[], bool],
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on `path`, in the folder that is claimed, until cancelled.

    Whoever cleans up temporary files may take the folder or the socket away. Within a second both
    are made again; clients that were connected meet a closed connection, and connect again.
    `shared`: whether other users may connect, and be told what they may do. Raises UsageError
    where it cannot be bound at first.
    """
    await _serve_one(path, claim, make_server(), shared, task_status.started)
    while True:
        _log.error("%s is gone: somebody has removed it; making it again", path)
        try:
            if claim.lost:
                claim.renew()
            await _serve_one(path, claim, make_server(), shared, lambda: None)
        except MeshtrioError as exc:
            _log.error("cannot make it again: %s; trying again", exc)
            await trio.sleep(_LOOK_EVERY)


async def _serve_one(
    path: Path,
    claim: Claim,
    server: Server,
    shared: Callable[[], bool],
    started: Callable[[], None],
) -> None:
    with unix_listener(path) as listener:
        async with running(server.serve, listener):
            started()
            await _until_lost(path, claim, shared)


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
    now = None
    with contextlib.suppress(FileNotFoundError):
        ours = os.lstat(path)
        while not claim.lost and os.path.samestat(os.lstat(path), ours):
            if shared() is not now:
                now = shared()
                _set_mode(path, ours, claim, now)
            await next_beat(_LOOK_EVERY)
