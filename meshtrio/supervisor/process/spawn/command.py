"""What comes before a process: its command with its limits, its environment, its executable's hash;
and what it uses once it runs.
"""

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
from meshtrio.runtime_dir import directory
from meshtrio.supervisor.process.spawn import launcher_main
from meshtrio.supervisor.process.spawn.signal_dispositions import needs_signal_reset
from meshtrio.util.address import ServerTlsConfig

_HASH_CHUNK_SIZE = 1024 * 1024
_hash_limiter = trio.CapacityLimiter(8)
"""Of threads that may have to wait for a filesystem, which no other work is to wait for."""
_LAUNCHER = str(Path(launcher_main.__file__))


class ExecutableMismatchError(OSError):
    """The executable is not the one that the config promised."""


def build_command(config: PluginConfig, cgroup: Path | None = None) -> list[str]:
    """The command that is executed: the plugin's own, or the launcher's in front of it.

    The launcher also resets signals, if this process would pass on that they are ignored or
    blocked.
    """
    contained = config.containment
    if not contained.needs_launcher and cgroup is None and not needs_signal_reset():
        return config.argv()
    settings = json.dumps({**attrs.asdict(contained), "cgroup": cgroup and str(cgroup)})
    return [sys.executable, "-I", "-S", _LAUNCHER, settings, *config.argv()]


def build_environment(config: PluginConfig, mesh_environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of a plugin's process; each of these overrides those before it.

    - `PYTHONUNBUFFERED=1`, so that what a Python program prints is in the log at once.
    - What it inherits from the mesh, without what a service manager or an outer mesh meant for the
      mesh itself.
    - `HOME`, `USER` and `LOGNAME` of the user that it runs as, if that is not the mesh's.
    - Its config's `env`.
    - `own`: what the mesh sets.

    Raises KeyError for a user that is not there.
    """
    return {
        "PYTHONUNBUFFERED": "1",
        **_inherited_environment(config.inherit_env),
        **_user_environment(config.containment.user),
        **config.env,
        **mesh_environment,
    }


def _inherited_environment(names: Sequence[str] | None) -> dict[str, str]:
    """What a plugin inherits from the mesh; `names`: only these, if not None."""
    withheld = contract.MESH_VARIABLES
    if names is None:
        withheld |= contract.SERVICE_MANAGER_VARIABLES
    return {
        name: value
        for name, value in os.environ.items()
        if name not in withheld and (names is None or name in names)
    }


def _user_environment(user: str | None) -> dict[str, str]:
    """What login(1) sets for a user. Raises KeyError."""
    if user is None:
        return {}
    entry = directory.look_up_user(user)
    return {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}


def tls_environment(config: ServerTlsConfig) -> dict[str, str]:
    """What a plugin is told that is to serve with TLS."""
    told = {
        contract.PLUGIN_TLS_CERTIFICATE: str(config.certificate),
        contract.PLUGIN_TLS_KEY: str(config.key),
    }
    if config.client_ca is not None:
        told[contract.PLUGIN_TLS_CLIENT_CA] = str(config.client_ca)
    return told


def message_length_environment(config: PluginConfig) -> dict[str, str]:
    """Give the variables for the lengths of messages that the config sets."""
    lengths = {
        contract.PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH: config.max_receive_message_length,
        contract.PLUGIN_MAX_SEND_MESSAGE_LENGTH: config.max_send_message_length,
    }
    return {name: str(length) for name, length in lengths.items() if length is not None}


async def check_executable(config: PluginConfig) -> None:
    """Compare the executable's SHA-256 with the config's, if it has one.

    What is checked is what the path leads to now: a program that can replace the file in the moment
    before it is executed is not kept from it.

    Raises:
        WrongExecutableError: It is another one, is not there or is not a regular file.
        OSError: It cannot be read.

    Cancellation: Returns at once; a thread that waits for a filesystem ends when that answers.
    """
    expected = config.containment.sha256
    if expected is None:
        return
    name, path = config.argv()[0], config.env.get("PATH")
    hashing = _ExecutableHash(name, path)
    try:
        program, found = await trio.to_thread.run_sync(
            hashing.run, abandon_on_cancel=True, limiter=_hash_limiter
        )
    finally:
        hashing.is_wanted = False
    if found != expected:
        raise ExecutableMismatchError(f"{program} has SHA-256 {found}, not {expected}")


class _ExecutableHash:
    """In a thread: finds a program and hashes it, until it is not wanted any more."""

    def __init__(self, name: str, path: str | None) -> None:
        self.is_wanted = True
        self._name = name
        self._path = path

    def run(self) -> tuple[str, str]:
        program = shutil.which(self._name, path=self._path)
        if program is None:
            raise ExecutableMismatchError(f"{self._name!r} is not there")
        # A FIFO would be waited for, and a device may never end.
        descriptor = os.open(program, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ExecutableMismatchError(f"{program} is not a regular file")
            found = hashlib.sha256()
            while self.is_wanted and (data := file.read(_HASH_CHUNK_SIZE)):
                found.update(data)
        return program, found.hexdigest()
