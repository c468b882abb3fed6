"""Launches one process of a plugin: the checks before, the spawn, and why it failed."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs

from meshtrio.config import ProgramConfig, ReplacementOrder
from meshtrio.config.ready import ServerCheck
from meshtrio.runtime_dir import directory as runtime_dir
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.policy.restart import Exit, ExitCause
from meshtrio.supervisor.process.spawn import launcher_main, start_failures
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.process.spawn.signal_dispositions import needs_signal_reset
from meshtrio.supervisor.readiness.newline import NewlinePipe
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.runs.environment import child_environment, shared_environment
from meshtrio.util.users import look_up_user
from meshtrio.util.worker_threads import ThreadLimiter

_HASH_CHUNK_SIZE = 1024 * 1024
_hash_limiter = ThreadLimiter(8)
_LAUNCHER = str(Path(launcher_main.__file__))
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
        """Make room for the socket or bind it, and check the port and the executable.

        Returns the users of which the plugin's server has to have one, None for any.
        """
        config = self._spec.config
        await self._prepare_socket()
        await self._check_ready_address()
        await check_hashes(config)
        if (user := config.containment.user) is not None:
            uid = look_up_user(user).pw_uid
            # A held socket is the mesh's, until a process calls listen(2).
            return frozenset({uid, os.geteuid()}) if config.listen_fds else frozenset({uid})
        return frozenset({os.geteuid(), 0}) if config.verify_server else None

    async def _prepare_socket(self) -> None:
        spec, config, directory = self._spec, self._spec.config, self._spec.mesh_socket.parent
        if spec.held_socket is not None:
            await spec.held_socket.open(directory, config)
            return
        runtime_dir.prepare_plugin_socket(directory, config, spec.socket)
        address, is_in_use = spec.listen, self._effects.is_address_in_use
        if address is not None and config.verify_server and await is_in_use(address):
            reason = f"another program answers at {address} already; stop it, or let the plugin"
            raise OSError(errno.EADDRINUSE, f"{reason} have another port (`listen`)")

    async def _check_ready_address(self) -> None:
        """Check that no other program answers where the plugin is to. Raises OSError."""
        config, check = self._spec.config, self._spec.ready_check
        is_first = config.replacement_order is ReplacementOrder.STOP_FIRST
        if not (is_first and config.verify_server and isinstance(check, ServerCheck)):
            return
        if config.listen_fds:
            return  # The mesh itself may listen there.
        address = check.address
        if not address.is_unix and await self._effects.is_address_in_use(str(address)):
            reason = f"another program answers at {address} already, the address in `ready`"
            raise OSError(errno.EADDRINUSE, f"{reason}; stop it, or let the plugin have another")

    async def spawn(self, pipe: NewlinePipe | None = None) -> PluginProcess:
        """Start the process in its cgroup, by fork if it is to be and can be, else by exec.

        It inherits the writing end of the pipe.
        """
        spec, config, effects = self._spec, self._spec.config, self._effects
        cgroups, user = effects.cgroups, config.containment.user
        memory = config.containment.memory
        cgroup = None if cgroups is None else cgroups.create(spec.launch_id, memory)
        held = None if spec.held_socket is None else spec.held_socket.fileno
        inherited = _list_inherited(held, pipe)
        self._command = build_command(config, cgroup, inherited, listens=held is not None)
        entry = None if user is None else look_up_user(user)
        self._env = child_environment(spec, inherited=os.environ, user=entry)
        if config.start.forks and effects.templates is not None:
            shared = shared_environment(config, inherited=os.environ, user=entry)
            process = await effects.templates.fork(
                config, shared_env=shared, env=self._env, cgroup=cgroup, listener=held
            )
            if process is not None:
                return process
        options = {"pass_fds": [current for current, _ in inherited]} if inherited else {}
        return await effects.spawn(
            self._command, env=self._env, cwd=config.cwd, cgroup=cgroup, **options
        )

    async def make_exit(self, exc: Exception) -> Exit:
        """Make the exit of a process that could not be started because of `exc`."""
        return await make_launch_exit(
            exc, self._spec.config, self._command, self._env, self._effects
        )


def _list_inherited(listener: int | None, pipe: NewlinePipe | None) -> list[tuple[int, int]]:
    """List the descriptors that the process inherits, each with the number that it is to have."""
    found = [] if listener is None else [(listener, launcher_main.FIRST_LISTEN_FD)]
    return found if pipe is None else [*found, (pipe.write_fd, pipe.fd)]


async def make_launch_exit(
    exc: Exception,
    config: ProgramConfig,
    command: Sequence[str],
    env: Mapping[str, str],
    effects: Effects,
) -> Exit:
    """Make the exit of a process that could not be started with a command because of `exc`."""
    reason = start_failures.explain_start_failure(exc, config.argv()[0], command, env)
    if isinstance(exc, OSError) and exc.errno in start_failures.PROGRAM_ERRNOS:
        problem = await effects.diagnose_program(config)
        reason = f"{reason}: {problem}" if problem else reason
    return Exit(
        reason=f"could not be started: {reason}",
        explicit_cause=ExitCause.NOT_STARTED,
        is_resource_exhaustion=start_failures.is_resource_exhaustion(exc),
    )


def build_command(
    config: ProgramConfig,
    cgroup: Path | None,
    inherited: Sequence[tuple[int, int]] = (),
    *,
    listens: bool = False,
) -> list[str]:
    """Build the command that is executed: the plugin's own, or the launcher's followed by it.

    The launcher is also needed to reset signals that the child would inherit ignored or blocked,
    to give descriptors their numbers, and for LISTEN_PID, which is the pid of the child.
    """
    containment = config.containment
    is_needed = containment.needs_launcher or cgroup is not None or inherited
    if not is_needed and not needs_signal_reset():
        return config.argv()
    settings = json.dumps(
        {
            **attrs.asdict(containment),
            "cgroup": cgroup and str(cgroup),
            "descriptors": inherited,
            "listens": listens,
        }
    )
    return [sys.executable, "-I", "-S", _LAUNCHER, settings, *config.argv()]


async def check_hashes(config: ProgramConfig) -> None:
    """Compare the SHA-256 hashes of the executable and of the script with the config's, if any.

    The file may still be replaced between this check and execve(2) by a program that may write to
    its directory.

    Raises:
        OSError: A hash differs, or the path is not a regular file that can be read.

    Cancellation: Returns at once; a thread that waits for a filesystem exits when that responds.
    """
    if (expected := config.containment.sha256) is not None:
        find = partial(_find_program, config.argv()[0], config.env.get("PATH"))
        await _check_hash(find, expected)
    if (expected := config.containment.script_sha256) is not None:
        await _check_hash(partial(str, config.script()), expected)


async def _check_hash(find: Callable[[], str], expected: str) -> None:
    cancelled = threading.Event()
    try:
        path, found = await _hash_limiter.run(_hash_file, find, cancelled)
    finally:
        cancelled.set()
    if found != expected:
        raise OSError(f"{path} has SHA-256 {found}, not {expected}")


def _find_program(name: str, path: str | None) -> str:
    program = shutil.which(name, path=path)
    if program is None:
        raise OSError(f"{name!r} is not there")
    return program


def _hash_file(find: Callable[[], str], cancelled: threading.Event) -> tuple[str, str]:
    """Find a file and hash it, until it is `cancelled`."""
    path = find()
    # Opening a FIFO would wait for a writer, and reading a device may never end.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(f"{path} is not a regular file")
        found = hashlib.sha256()
        while not cancelled.is_set() and (data := file.read(_HASH_CHUNK_SIZE)):
            found.update(data)
    return path, found.hexdigest()
