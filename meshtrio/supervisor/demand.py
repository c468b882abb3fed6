"""Starts instances on demand: watches their sockets while they have no process.

A connection waits in the backlog of the socket that the mesh holds, which makes the socket
readable. It is not accepted: the process that is started does that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from meshtrio.config import PluginConfig
from meshtrio.supervisor.held_socket import HeldSocket

_log = logging.getLogger("meshtrio.mesh")


@attrs.define(eq=False)
class DemandWatch:
    """Waits for a connection to the socket of one idle instance."""

    config: PluginConfig
    """The plugin."""
    held: HeldSocket
    """The socket."""
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    is_open: bool = attrs.field(default=False, init=False)
    """Whether the socket accepts connections."""
    is_over: bool = attrs.field(default=False, init=False)
    """Whether `run` has returned, or is about to."""

    def cancel(self) -> None:
        """Have `run` return."""
        self.is_over = True
        self._scope.cancel()

    @property
    def is_path_lost(self) -> bool:
        """Whether the file of a Unix socket was removed or replaced, so that it has to be bound
        again, by another watch."""
        return self.is_open and bool(self.held.path) and not self.held.is_path_own

    async def run(
        self,
        directory: Path,
        on_open: Callable[[], None],
        on_demand: Callable[[], None],
    ) -> None:
        """Bind the socket and wait for a connection; return if it is closed, or after `cancel`.

        Args:
            directory: The runtime directory of the mesh.
            on_open: Called once the socket accepts connections.
            on_demand: Called if there is a connection, and also if the socket cannot be bound: the
                start of a process fails for the same reason then, and is tried again later.
        """
        try:
            with self._scope:
                await trio.lowlevel.checkpoint_if_cancelled()
                await self.held.open(directory, self.config)
                self.is_open = True
                on_open()
                await self.held.wait_connection()
                on_demand()
        except trio.ClosedResourceError:
            pass
        except (OSError, KeyError, RuntimeError) as exc:
            _log.debug("%s: cannot be held while it is idle: %s", self.held.address, exc)
            on_demand()
        finally:
            self.is_over, self.is_open = True, False
