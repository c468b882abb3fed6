"""What precedes the spawn of a plugin: its command line and the check of its executable's hash."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import sys
import threading
from pathlib import Path

import attrs

from meshtrio.config import PluginConfig
from meshtrio.supervisor.process.spawn import launcher_main
from meshtrio.supervisor.process.spawn.signal_dispositions import needs_signal_reset
from meshtrio.util.worker_threads import ThreadLimiter

_HASH_CHUNK_SIZE = 1024 * 1024
_hash_limiter = ThreadLimiter(8)
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
    cancelled = threading.Event()
    try:
        program, found = await _hash_limiter.run(
            _hash_program, config.argv()[0], config.env.get("PATH"), cancelled
        )
    finally:
        cancelled.set()
    if found != expected:
        raise ExecutableMismatchError(f"{program} has SHA-256 {found}, not {expected}")


def _hash_program(name: str, path: str | None, cancelled: threading.Event) -> tuple[str, str]:
    """Find a program and hash it, until it is `cancelled`."""
    program = shutil.which(name, path=path)
    if program is None:
        raise ExecutableMismatchError(f"{name!r} is not there")
    # Opening a FIFO would wait for a writer, and reading a device may never end.
    descriptor = os.open(program, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ExecutableMismatchError(f"{program} is not a regular file")
        found = hashlib.sha256()
        while not cancelled.is_set() and (data := file.read(_HASH_CHUNK_SIZE)):
            found.update(data)
    return program, found.hexdigest()
