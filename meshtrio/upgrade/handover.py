"""What the parts of a running mesh hand over, and how they prepare for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import attrs
import trio

from meshtrio.gateway.mesh_server import MeshServer
from meshtrio.runtime_dir.claim import ClaimedRuntimeDir
from meshtrio.services.event_log import EventLog
from meshtrio.supervisor.operations import Execution, Operations
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.systemd.listen_fds import PassedSockets
from meshtrio.transport.acceptor import ACCEPT_GATE
from meshtrio.transport.listener import LISTENERS
from meshtrio.upgrade.state import SavedMesh
from meshtrio.util.errors import UsageError

if TYPE_CHECKING:
    from meshtrio.cluster.node import Node

SETTLE_TIMEOUT = 30.0
"""Seconds for which an upgrade waits for operations, and for processes that are started or ended.
"""
_CHECK_INTERVAL = 0.02


@attrs.define(eq=False)
class Handover:
    """The parts of one mesh."""

    claim: ClaimedRuntimeDir
    supervisor: Supervisor
    operations: Operations
    server: MeshServer
    event_log: EventLog
    sockets: PassedSockets
    node: Node | None

    def find_obstacle(self) -> str:
        """Return why there can be no upgrade now, as a phrase after "while"; "" if there can."""
        operation = next(iter(self.operations.in_progress), "")
        return operation or self.supervisor.find_obstacle()

    def save(self, execution: Execution) -> SavedMesh:
        """Return the state, unless there is an obstacle; `execution` is that of the new program."""
        registry = self.server.registry_servicer
        return SavedMesh(
            execution=execution,
            runtime_dir=str(self.claim.path),
            claim=self.claim.descriptors,
            listeners={address: sock.fileno() for address, sock in LISTENERS.open.items()},
            passed_sockets=self.sockets.descriptors(),
            supervisor=self.supervisor.save(),
            registrations=registry.kept.save(),
            next_registration=registry.next_serial,
            events=self.event_log.save(),
            history=self.server.history.save(),
            node=None if self.node is None else self.node.save(),
        )

    async def settle(self) -> None:
        """Wait until the state can be handed over, for `SETTLE_TIMEOUT` at most.

        Raises:
            UsageError: It could not within that time; the text says what was in the way.
        """
        obstacle = ""
        with trio.move_on_after(SETTLE_TIMEOUT):
            while True:
                obstacle = self.find_obstacle()
                if not obstacle:
                    return
                await trio.sleep(_CHECK_INTERVAL)
        raise UsageError(f"an upgrade is not possible while {obstacle}")

    async def wait_for_operations(self) -> None:
        """Wait until no operation is in progress. Raises UsageError after `SETTLE_TIMEOUT`."""
        with trio.move_on_after(SETTLE_TIMEOUT):
            await self.operations.wait_until_idle()
        for operation in self.operations.in_progress:
            raise UsageError(f"an upgrade is not possible while {operation}")

    @asynccontextmanager
    async def starts_paused(self) -> AsyncIterator[None]:
        """Start no process and no operation during the block."""
        self.operations.is_upgrading = True
        self.supervisor.pause_starts()
        try:
            yield
        finally:
            self.operations.is_upgrading = False
            self.supervisor.resume_starts()

    @asynccontextmanager
    async def connections_released(self, nursery: trio.Nursery) -> AsyncIterator[None]:
        """Let new connections wait during the block, before which those that there are drain.

        After the block, a task in the nursery removes endpoints that are not registered again.
        """
        kept = self.server.registry_servicer.kept
        ACCEPT_GATE.close()
        kept.is_keeping = True
        try:
            await self.server.release_connections()
            yield
        finally:
            kept.is_keeping = False
            nursery.start_soon(kept.expire)
            ACCEPT_GATE.open()
