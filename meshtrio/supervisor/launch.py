"""Launches one process of a plugin: the checks before, the spawn, and why it failed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from meshtrio.config import PluginConfig
from meshtrio.runtime_dir import directory as runtime_dir
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.policy.restart import Exit, ExitCause
from meshtrio.supervisor.process.spawn.command import build_command, check_executable
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.process.spawn.start_failures import (
    PROGRAM_ERRNOS,
    explain_start_failure,
    is_resource_exhaustion,
)
from meshtrio.util.users import resolve_ids

LAUNCH_ERRORS = (OSError, ValueError, KeyError, RuntimeError)
"""What launching raises if the process cannot be started; RuntimeError if no thread can be."""


class Launch:
    """Prepares and spawns one process; both steps raise one of `LAUNCH_ERRORS`."""

    def __init__(
        self,
        config: PluginConfig,
        effects: Effects,
        *,
        launch_id: str,
        socket: Path,
        listen_address: str | None,
        build_environment: Callable[[], Mapping[str, str]],
    ) -> None:
        self._config = config
        self._effects = effects
        self._launch_id = launch_id
        self._socket = socket
        self._listen_address = listen_address
        self._build_environment = build_environment
        self._command: Sequence[str] = ()
        self._env: Mapping[str, str] = {}

    async def prepare(self, runtime_directory: Path) -> frozenset[int] | None:
        """Make room for the socket, and check the port and the executable.

        Returns:
            The users of which the plugin's server has to have one, None for any.
        """
        runtime_dir.prepare_plugin_socket(runtime_directory, self._config, self._socket)
        await self._check_port()
        await check_executable(self._config)
        return self._allowed_server_uids()

    async def spawn(self) -> PluginProcess:
        """Start the process in its cgroup, with its command and environment."""
        config, effects = self._config, self._effects
        cgroup = None
        if effects.cgroups is not None:
            cgroup = effects.cgroups.create(self._launch_id, config.containment.memory)
        self._command = build_command(config, cgroup)
        self._env = self._build_environment()
        return await effects.spawn(self._command, env=self._env, cwd=config.cwd, cgroup=cgroup)

    async def make_exit(self, exc: Exception) -> Exit:
        """Make the exit of a process that could not be started because of `exc`."""
        return Exit(
            reason=f"could not be started: {await self._explain(exc)}",
            explicit_cause=ExitCause.NOT_STARTED,
            is_resource_exhaustion=is_resource_exhaustion(exc),
        )

    async def _explain(self, exc: Exception) -> str:
        config = self._config
        reason = explain_start_failure(exc, config.argv()[0], self._command, self._env)
        if isinstance(exc, OSError) and exc.errno in PROGRAM_ERRNOS:
            problem = await self._effects.diagnose_program(config)
            return f"{reason}: {problem}" if problem else reason
        return reason

    async def _check_port(self) -> None:
        """Refuse to start a process whose address another program serves. Raises OSError."""
        address = self._listen_address
        if address is None or not self._config.verify_server:
            return
        if await self._effects.is_address_in_use(address):
            reason = f"another program answers at {address} already; stop it, or let the plugin"
            raise OSError(errno.EADDRINUSE, f"{reason} have another port (`listen`)")

    def _allowed_server_uids(self) -> frozenset[int] | None:
        user = self._config.containment.user
        if user is not None:
            return frozenset({resolve_ids(user, None)[0]})
        return frozenset({os.geteuid(), 0}) if self._config.verify_server else None
