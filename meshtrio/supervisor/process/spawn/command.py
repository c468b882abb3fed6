"""What precedes the spawn of a plugin: its command line and the check of its executable's hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
from pathlib import Path

import attrs
import trio

from meshtrio.config import PluginConfig
from meshtrio.supervisor.process.spawn import launcher_main
from meshtrio.supervisor.process.spawn.signal_dispositions import needs_signal_reset

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
