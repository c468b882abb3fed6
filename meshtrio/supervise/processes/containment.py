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

from meshtrio import contract, runtime_dir
from meshtrio.address import ServerTlsFiles
from meshtrio.config import PluginConfig
from meshtrio.supervise.processes import launcher_main
from meshtrio.supervise.processes.dispositions import passes_signals_on
from meshtrio.threads import ThreadLimiter

_HASHED_AT_ONCE = 1024 * 1024
_hash_limiter = ThreadLimiter(8)
_LAUNCHER = str(Path(launcher_main.__file__))


class WrongExecutableError(OSError):
    """The executable is not the one that the config promised."""


def command_of(config: PluginConfig, cgroup: Path | None = None) -> list[str]:
    """The command that is executed: the plugin's own, or the launcher's in front of it.

    The launcher also resets signals, if this process would pass on that they are ignored or
    blocked.
    """
    contained = config.containment
    if not contained.needs_launcher and cgroup is None and not passes_signals_on():
        return config.argv()
    settings = json.dumps({**attrs.asdict(contained), "cgroup": cgroup and str(cgroup)})
    return [sys.executable, "-I", "-S", _LAUNCHER, settings, *config.argv()]


def environment_of(config: PluginConfig, own: Mapping[str, str]) -> dict[str, str]:
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
        **_inherited(config.inherit_env),
        **_of_user(config.containment.user),
        **config.env,
        **own,
    }


def _inherited(names: Sequence[str] | None) -> dict[str, str]:
    """What a plugin inherits from the mesh; `names`: only these, if not None."""
    withheld = contract.ENVIRONMENT
    if names is None:
        withheld |= contract.OF_SERVICE_MANAGER
    return {
        name: value
        for name, value in os.environ.items()
        if name not in withheld and (names is None or name in names)
    }


def _of_user(user: str | None) -> dict[str, str]:
    """What login(1) sets for a user. Raises KeyError."""
    if user is None:
        return {}
    entry = runtime_dir.user_entry(user)
    return {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}


def environment_of_tls(files: ServerTlsFiles) -> dict[str, str]:
    """What a plugin is told that is to serve with TLS."""
    told = {
        contract.PLUGIN_TLS_CERTIFICATE: str(files.certificate),
        contract.PLUGIN_TLS_KEY: str(files.key),
    }
    if files.client_ca is not None:
        told[contract.PLUGIN_TLS_CLIENT_CA] = str(files.client_ca)
    return told


def environment_of_lengths(config: PluginConfig) -> dict[str, str]:
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
    hashing = _Hashing(name, path)
    try:
        program, found = await trio.to_thread.run_sync(
            hashing.run, abandon_on_cancel=True, limiter=_hash_limiter.get()
        )
    finally:
        hashing.wanted = False
    if found != expected:
        raise WrongExecutableError(f"{program} has SHA-256 {found}, not {expected}")


class _Hashing:
    """In a thread: finds a program and hashes it, until it is not wanted any more."""

    def __init__(self, name: str, path: str | None) -> None:
        self.wanted = True
        self._name = name
        self._path = path

    def run(self) -> tuple[str, str]:
        program = shutil.which(self._name, path=self._path)
        if program is None:
            raise WrongExecutableError(f"{self._name!r} is not there")
        # A FIFO would be waited for, and a device may never end.
        descriptor = os.open(program, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise WrongExecutableError(f"{program} is not a regular file")
            found = hashlib.sha256()
            while self.wanted and (data := file.read(_HASHED_AT_ONCE)):
                found.update(data)
        return program, found.hexdigest()
