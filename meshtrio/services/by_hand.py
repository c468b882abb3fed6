"""Serves GetEnvironment and Attach of meshtrio.v1.Control: running a plugin by hand."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import purerpc
import trio

from meshtrio.messages import control
from meshtrio.supervisor.attachment import Attachment
from meshtrio.supervisor.operations import Operations
from meshtrio.transport.peer import Peer
from meshtrio.util.users import look_up_user, resolve_ids

_STOP_SLACK = 5.0
"""Seconds that a client has, in addition to the stop timeout, to stop its process."""


def get_environment(operations: Operations, request: Any, peer: Peer) -> Any:
    """Serve GetEnvironment."""
    _check_own_user(peer)
    found = operations.get_environment(request.name, request.instance)
    return control.GetEnvironmentResponse(variables=_encode_environment(found))


async def attach(operations: Operations, request: Any, peer: Peer) -> AsyncGenerator[Any, None]:
    """Serve Attach: hold the place of an instance until the client ends the call or is gone."""
    _check_own_user(peer)
    if not peer.pid:  # 0 for one that this PID namespace does not show.
        raise purerpc.PermissionDeniedError(
            "only a process of the mesh's machine and PID namespace can be attached"
        )
    async with operations.attach(request.name, request.instance, peer.pid) as attachment:
        yield control.AttachUpdate(process=_make_process(attachment))
        await attachment.revoked.wait()
        yield control.AttachUpdate(stop_reason=attachment.revoke_reason)
        await trio.sleep(attachment.spec.config.stop_timeout + _STOP_SLACK)
        raise purerpc.AbortedError(f"{attachment.revoke_reason}, and the process did not")


def _check_own_user(peer: Peer) -> None:
    """Raise PermissionDeniedError for other users, who may have access to Control.

    The environment has secrets, and what is attached serves in the name of the mesh's user.
    """
    if not peer.is_own_user_or_root:
        raise purerpc.PermissionDeniedError(
            f"access.control: {peer} may neither see the environment of plugins nor attach to "
            "them; that is for the mesh's own user and root"
        )


def _encode_environment(environment: Mapping[str, str]) -> list[bytes]:
    return [os.fsencode(f"{name}={value}") for name, value in sorted(environment.items())]


def _make_process(attachment: Attachment) -> Any:
    config = attachment.spec.config
    user_id, group_id = os.geteuid(), os.getegid()
    if (user := config.containment.user) is not None:
        user_id, group_id = look_up_user(user).pw_uid, look_up_user(user).pw_gid
    if (group := config.containment.group) is not None:
        group_id = resolve_ids(None, group)[1]
    return control.AttachedProcess(
        variables=_encode_environment(attachment.environment()),
        command=map(os.fsencode, config.argv()),
        directory=os.fsencode(os.path.abspath(config.cwd or ".")),
        user_id=user_id,
        group_id=group_id,
        stop_timeout=config.stop_timeout,
    )
