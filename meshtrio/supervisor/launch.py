"""Launches one process of a plugin: the checks before, the spawn, and why it failed."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence

import attrs

from meshtrio.runtime_dir import directory as runtime_dir
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.environment import child_environment
from meshtrio.supervisor.policy.restart import Exit, ExitCause
from meshtrio.supervisor.process.spawn import start_failures
from meshtrio.supervisor.process.spawn.command import build_command, check_executable
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.util.users import look_up_user, resolve_ids

LAUNCH_ERRORS = (OSError, ValueError, KeyError, RuntimeError)
"""What launching raises if the process cannot be started; RuntimeError if no thread can be."""


@attrs.define(eq=False)
class Launch:
    """Prepares and spawns one process; both steps raise one of `LAUNCH_ERRORS`."""

    _spec: RunSpec
    _effects: Effects
    _command: Sequence[str] = ()
    _env: Mapping[str, str] = attrs.field(factory=dict)

    async def prepare(self) -> frozenset[int] | None:
        """Make room for the socket, and check the port and the executable.

        Returns the users of which the plugin's server has to have one, None for any.
        """
        spec, config = self._spec, self._spec.config
        runtime_dir.prepare_plugin_socket(spec.mesh_socket.parent, config, spec.socket)
        address, is_in_use = spec.listen, self._effects.is_address_in_use
        if address is not None and config.verify_server and await is_in_use(address):
            reason = f"another program answers at {address} already; stop it, or let the plugin"
            raise OSError(errno.EADDRINUSE, f"{reason} have another port (`listen`)")
        await check_executable(config)
        if (user := config.containment.user) is not None:
            return frozenset({resolve_ids(user, None)[0]})
        return frozenset({os.geteuid(), 0}) if config.verify_server else None

    async def spawn(self) -> PluginProcess:
        """Start the process in its cgroup, with its command and environment."""
        spec, config, effects = self._spec, self._spec.config, self._effects
        cgroups, user = effects.cgroups, config.containment.user
        memory = config.containment.memory
        cgroup = None if cgroups is None else cgroups.create(spec.launch_id, memory)
        self._command = build_command(config, cgroup)
        entry = None if user is None else look_up_user(user)
        self._env = child_environment(spec, inherited=os.environ, user=entry)
        return await effects.spawn(self._command, env=self._env, cwd=config.cwd, cgroup=cgroup)

    async def make_exit(self, exc: Exception) -> Exit:
        """Make the exit of a process that could not be started because of `exc`."""
        config = self._spec.config
        program, command = config.argv()[0], self._command
        reason = start_failures.explain_start_failure(exc, program, command, self._env)
        if isinstance(exc, OSError) and exc.errno in start_failures.PROGRAM_ERRNOS:
            problem = await self._effects.diagnose_program(config)
            reason = f"{reason}: {problem}" if problem else reason
        return Exit(
            reason=f"could not be started: {reason}",
            explicit_cause=ExitCause.NOT_STARTED,
            is_resource_exhaustion=start_failures.is_resource_exhaustion(exc),
        )
