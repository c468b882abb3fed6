"""Makes a child of the template what it would be after execve(2). Standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import gc
import os
import sys
from typing import Any

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING or __package__:
    from meshtrio.supervisor.process.cleanup import process_marker
    from meshtrio.supervisor.process.spawn import launcher_main
    from meshtrio.supervisor.process.template import process_map
else:
    # Siblings and others by their directories: see `template_main`.
    import launcher_main
    import process_map
    import process_marker


def _read_environment() -> dict[str, str]:
    """Read the environment that this process was executed with."""
    with open("/proc/self/environ", "rb") as file:
        entries = (os.fsdecode(entry).partition("=") for entry in file.read().split(b"\0"))
        return {name: value for name, _, value in entries if name}


_INITIAL_ENVIRONMENT = _read_environment()


def become_plugin(request: dict[str, Any], cwd: str | None) -> str:
    """Take on all that the program is to have when it begins, apart from its descriptors.

    Args:
        request: `Template.fork` makes it.
        cwd: The directory that the template was started in, if its modules have changed to another
            one; None if the program is to begin in that of the request.

    Returns:
        The directory that an interpreter would have been started in.

    Raises:
        OSError: Something could not be set.
    """
    os.setsid()
    if cwd is None:
        os.chdir(request["cwd"])
        cwd = os.getcwd()
    _set_environment(request["env"], request["command"])
    # Limits in the end: they may forbid what was done before.
    launcher_main.apply_settings(request["settings"])
    process_marker.set_marker_limit(0, request["marker_limit"])
    sys.orig_argv = request["command"]
    _seed_random()
    gc.enable()
    return cwd


def place_descriptors(streams: list[int], pidfd: int, pidfd_number: int, gate: int) -> int:
    """Give descriptors their numbers, and close all others.

    Args:
        streams: Those of stdin, stdout and stderr, and a listening socket that it inherits, if any.
        pidfd: That of the mesh.
        pidfd_number: The number that it is to have, above that of a listening socket.
        gate: The socket on which the start is reported. It stays open.

    Returns:
        The new number of the gate.

    Raises:
        OSError: No descriptors are left.
    """
    wanted = [*range(len(streams)), pidfd_number]
    # First to numbers that none of them wants.
    free = max(wanted) + 1
    copies: list[int] = [
        fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, free) for each in (*streams, pidfd, gate)
    ]
    for number, copy in zip(wanted, copies, strict=False):
        os.dup2(copy, number)
    kept = {*wanted, copies[-1]}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in kept:
            with contextlib.suppress(OSError):  # That of the listing is closed.
                os.close(int(name))
    return copies[-1]


def _set_environment(env: dict[str, str], command: list[str]) -> None:
    # Other variables were set by the interpreter (LC_CTYPE, PEP 538) or by a module.
    for name in _INITIAL_ENVIRONMENT.keys() - env.keys():
        os.environ.pop(name, None)
    for name, value in env.items() - _INITIAL_ENVIRONMENT.items():
        os.environ[name] = value
    variables = [os.fsencode(f"{name}={value}") for name, value in env.items()]
    process_map.show_command_and_environment(list(map(os.fsencode, command)), variables)


def _seed_random() -> None:
    """Seed NumPy's global generator; Python's own is seeded by a hook of the module `random`."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
