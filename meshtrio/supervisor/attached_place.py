"""Holds the place of an instance for an attachment: stops the instance, and starts it again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio

from meshtrio.supervisor.attachment import Attachment
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.reconciliation.run_reaper import RunReaper
from meshtrio.util.errors import UsageError

_log = logging.getLogger("meshtrio.mesh")


@asynccontextmanager
async def hold_place(
    instance: Instance,
    attachment: Attachment,
    *,
    wait_until: Callable[[Callable[[], bool]], Awaitable[None]],
    reaper: RunReaper,
) -> AsyncIterator[None]:
    """Have an instance without a run during the block; see `Supervisor.attach`.

    Args:
        instance: The instance.
        attachment: What takes its place.
        wait_until: Waits until the supervisor has made a condition true.
        reaper: Kills what was started in its place.
    """
    instance.attach(attachment)
    try:
        is_revoked = attachment.revoked.is_set
        await wait_until(lambda: not instance.runs() or is_revoked())
        if is_revoked():
            raise UsageError(attachment.revoke_reason)
        # The process in its place binds the address itself.
        instance.held_sockets.close_unused(is_down=True)
        _log.info("%s: attached by pid %d", instance.name, attachment.pid)
        yield
    finally:
        with trio.CancelScope(shield=True):
            await reaper.kill_orphans(instance, attachment.identity)
        instance.detach()
        _log.info("%s: pid %d is not attached any more", instance.name, attachment.pid)
