"""What the supervisor needs of the system: types only, so that tests can replace all of it.

`system_effects.make_system_effects` makes the real one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from random import Random
from typing import Any, Protocol

import attrs

from meshtrio.config import PluginConfig
from meshtrio.supervisor.probe import Probe
from meshtrio.supervisor.process.cleanup.cgroup import Cgroups
from meshtrio.supervisor.process.cleanup.leftover_killer import LeftoverReport, RunIdentity
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.process_observer import Observe


class Spawn(Protocol):
    """Starts a process."""

    def __call__(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        cgroup: Path | None = None,
    ) -> Awaitable[PluginProcess]:
        """Start a process. Raises OSError or ValueError."""


class Guard(Protocol):
    """Kills the plugins' processes should the mesh die without stopping them."""

    def watch(self, pid: int, pidfd: int) -> None:
        """Add a process."""

    def unwatch(self, pid: int) -> None:
        """Remove a process that has ended."""

    def set_users(self, users: Iterable[int]) -> None:
        """Set the users that processes of plugins run as. Raises OSError."""


@attrs.frozen
class Effects:
    """The system as the supervisor uses it."""

    guard: Guard
    """Kills the plugins should the mesh be killed."""
    run_guard: Callable[[], AbstractAsyncContextManager[Any]]
    """Runs the guard during a block."""
    spawn: Spawn
    """Starts a process."""
    kill_orphans: Callable[[RunIdentity], Awaitable[LeftoverReport]]
    """Kills the processes that a run has left behind."""
    probe: Probe
    """Checks the health of a plugin's server."""
    observe: Observe
    """Samples what a plugin's processes do."""
    read_rss_by_group: Callable[[], Awaitable[Mapping[int, int]]]
    """Reads the resident memory of all process groups, in bytes. Raises OSError or RuntimeError."""
    is_socket_removed: Callable[[Path], bool]
    """Whether the file of a socket that is bound there has been removed."""
    is_address_in_use: Callable[[str], Awaitable[bool]]
    """Whether a server accepts connections at a TCP address."""
    diagnose_program: Callable[[PluginConfig], Awaitable[str]]
    """Explains why a plugin's program cannot be executed; "" if there is no reason to be found."""
    rng: Random = attrs.field(factory=Random)
    """Randomizes delays and ages."""
    cgroups: Cgroups | None = None
    """Makes the cgroups of processes, if the config has a cgroup for them."""
