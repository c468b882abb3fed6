"""Explains why a process could not be started, and what to do about it."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Mapping, Sequence

import trio

from meshtrio.config import ProgramConfig
from meshtrio.util.errors import RESOURCE_EXHAUSTED_ERRNOS
from meshtrio.util.executable_check import explain_not_executable
from meshtrio.util.text import replace_surrogates
from meshtrio.util.worker_threads import ThreadLimiter

EXEC_FAILED_STATUSES = frozenset({126, 127})
"""Exit statuses by which env(1), shells and our launcher report that execve(2) failed."""

PROGRAM_ERRNOS = {
    *(errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR),  # of the path
    *(errno.EACCES, errno.EPERM),  # of its mode, or of the mount
    *(errno.ENOEXEC, errno.ELIBBAD, errno.EINVAL),  # of the content
}
"""Error numbers of execve(2) and chdir(2) whose cause is the program or the working directory."""

_DIAGNOSIS_TIMEOUT = 2.0
_limiter = ThreadLimiter(8)
_MAX_ARGUMENT_SIZE = 32 * os.sysconf("SC_PAGE_SIZE")
"""Maximum number of bytes of one argument or variable (MAX_ARG_STRLEN)."""


def is_resource_exhaustion(exc: Exception) -> bool:
    """Whether a start failed because descriptors, memory, processes or threads are exhausted."""
    number = getattr(exc, "errno", None)
    # RuntimeError: no thread can be started. EAGAIN: no process can be (fork(2)).
    exhausted = (*RESOURCE_EXHAUSTED_ERRNOS, errno.EAGAIN)
    return isinstance(exc, RuntimeError) or number in exhausted


def explain_start_failure(
    exc: Exception, program: str, command: Sequence[str], env: Mapping[str, str]
) -> str:
    """Explain an exception of a start by its error number, in a sentence that follows a colon."""
    number = getattr(exc, "errno", None)
    reason = getattr(exc, "strerror", None) or str(exc)
    if number in RESOURCE_EXHAUSTED_ERRNOS:
        return f"{reason} in the mesh (see `ulimit -n`)"
    if number == errno.E2BIG:
        return f"{reason}: {_describe_sizes(command, env)}"
    if number == errno.EAGAIN:
        hint = "no more processes may be started (see `ulimit -u`, and pids.max of the cgroup)"
        return f"{reason}: {hint}"
    if number == errno.ETXTBSY:
        return (
            f"{reason}: {replace_surrogates(program)!r} is open for writing in another process; to "
            "replace a program, rename the new file over it"
        )
    return replace_surrogates(reason)


async def explain_exec_failure(config: ProgramConfig) -> str:
    """Find out what is wrong with a program or working directory; "" if nothing is found.

    Cancellation: Shielded, and limited to two seconds, since a filesystem may not respond.
    """
    with (
        trio.move_on_after(_DIAGNOSIS_TIMEOUT, shield=True),
        contextlib.suppress(RuntimeError),  # No thread can be started.
    ):
        return await _limiter.run(explain_not_executable, config.program())
    return ""


def _describe_sizes(command: Sequence[str], env: Mapping[str, str]) -> str:
    strings = {f"argument {number}": argument for number, argument in enumerate(command)}
    strings |= {f"variable {name}": f"{name}={value}" for name, value in env.items()}
    sizes = {name: len(os.fsencode(text)) + 1 for name, text in strings.items()}
    name = max(sizes, key=sizes.__getitem__)
    return (
        f"the arguments and the environment have {sum(sizes.values()):,} bytes, of which "
        f"{replace_surrogates(name)} has {sizes[name]:,}; the limit is {_MAX_ARGUMENT_SIZE:,} for "
        "one, and a quarter of `ulimit -s` in all"
    )
