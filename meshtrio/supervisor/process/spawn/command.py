"""Prepares the start of a plugin: its command, its environment, and its executable's hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import trio

from meshtrio import contract
from meshtrio.config import PluginConfig
from meshtrio.supervisor.process.spawn import launcher_main
from meshtrio.supervisor.process.spawn.signal_dispositions import needs_signal_reset
from meshtrio.util.address import ServerTlsConfig
from meshtrio.util.users import look_up_user

_HASH_CHUNK_SIZE = 1024 * 1024
_hash_limiter = trio.CapacityLimiter(8)
"""Limits threads that may hang in a filesystem, so that they cannot block other thread work."""
_LAUNCHER = str(Path(launcher_main.__file__))


class ExecutableMismatchError(OSError):
    """The executable does not have the SHA-256 hash that the config requires."""


def build_command(config: PluginConfig, cgroup: Path | None = None) -> list[str]:
    """Build the command that is executed: the plugin's own, or the launcher's followed by it.

    The launcher is also needed to reset signals that the child would inherit ignored or blocked.
    """
    containment = config.containment
    if not containment.needs_launcher and cgroup is None and not needs_signal_reset():
        return config.argv()
    settings = json.dumps({**attrs.asdict(containment), "cgroup": cgroup and str(cgroup)})
    return [sys.executable, "-I", "-S", _LAUNCHER, settings, *config.argv()]


def build_environment(config: PluginConfig, mesh_environment: Mapping[str, str]) -> dict[str, str]:
    """Build the environment of a plugin's process, in which later sources override earlier ones.

    - `PYTHONUNBUFFERED=1`, so that the output of a Python program is in the log at once.
    - The environment of the mesh, except for variables that a service manager or an outer mesh has
      set for the mesh itself.
    - `HOME`, `USER` and `LOGNAME` of the user that it runs as, if that is not the mesh's.
    - Its config's `env`.
    - `mesh_environment`, the variables that the mesh sets.

    Raises:
        KeyError: The user does not exist.
    """
    return {
        "PYTHONUNBUFFERED": "1",
        **_inherited_environment(config.inherit_env),
        **_user_environment(config.containment.user),
        **config.env,
        **mesh_environment,
    }


def _inherited_environment(names: Sequence[str] | None) -> dict[str, str]:
    """Return the variables that a plugin inherits from the mesh; only `names` if not None."""
    excluded = contract.MESH_VARIABLES
    if names is None:
        excluded |= contract.SERVICE_MANAGER_VARIABLES
    return {
        name: value
        for name, value in os.environ.items()
        if name not in excluded and (names is None or name in names)
    }


def _user_environment(user: str | None) -> dict[str, str]:
    """Return the variables that login(1) sets for a user. Raises KeyError."""
    if user is None:
        return {}
    entry = look_up_user(user)
    return {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}


def tls_environment(config: ServerTlsConfig) -> dict[str, str]:
    """Return the variables of a plugin that serves with TLS."""
    variables = {
        contract.PLUGIN_TLS_CERTIFICATE: str(config.certificate),
        contract.PLUGIN_TLS_KEY: str(config.key),
    }
    if config.client_ca is not None:
        variables[contract.PLUGIN_TLS_CLIENT_CA] = str(config.client_ca)
    return variables


def message_length_environment(config: PluginConfig) -> dict[str, str]:
    """Return the variables for the limits of message lengths that the config sets."""
    lengths = {
        contract.PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH: config.max_receive_message_length,
        contract.PLUGIN_MAX_SEND_MESSAGE_LENGTH: config.max_send_message_length,
    }
    return {name: str(length) for name, length in lengths.items() if length is not None}


async def check_executable(config: PluginConfig) -> None:
    """Compare the executable's SHA-256 hash with the config's, if it has one.

    The file may still be replaced between this check and execve(2) by a program that may write to
    its directory.

    Raises:
        ExecutableMismatchError: The hash differs, or the path is not a regular file.
        OSError: The file cannot be read.

    Cancellation: Returns at once; a thread that waits for a filesystem exits when that responds.
    """
    expected = config.containment.sha256
    if expected is None:
        return
    name, path = config.argv()[0], config.env.get("PATH")
    executable_hash = _ExecutableHash(name, path)
    try:
        program, found = await trio.to_thread.run_sync(
            executable_hash.run, abandon_on_cancel=True, limiter=_hash_limiter
        )
    finally:
        executable_hash.is_wanted = False
    if found != expected:
        raise ExecutableMismatchError(f"{program} has SHA-256 {found}, not {expected}")


class _ExecutableHash:
    """Finds a program and hashes it in a thread, unless `is_wanted` is reset meanwhile."""

    def __init__(self, name: str, path: str | None) -> None:
        self.is_wanted = True
        self._name = name
        self._path = path

    def run(self) -> tuple[str, str]:
        program = shutil.which(self._name, path=self._path)
        if program is None:
            raise ExecutableMismatchError(f"{self._name!r} is not there")
        # Opening a FIFO would wait for a writer, and reading a device may never end.
        descriptor = os.open(program, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ExecutableMismatchError(f"{program} is not a regular file")
            found = hashlib.sha256()
            while self.is_wanted and (data := file.read(_HASH_CHUNK_SIZE)):
                found.update(data)
        return program, found.hexdigest()
