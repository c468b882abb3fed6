"""Why a process could not be started, in words that say what to do."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence

import trio

from meshtrio.config import PluginConfig
from meshtrio.config.program import problem_of
from meshtrio.errors import OUT_OF_RESOURCES
from meshtrio.texts import whole
from meshtrio.threads import ThreadLimiter

NOT_EXECUTED = frozenset({126, 127})
"""Exit statuses by which env(1), shells and our launcher say that a program was not executed."""

EXPLAINED_BY_PROGRAM = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EACCES,
        errno.EPERM,
        errno.ENOEXEC,
        errno.ELOOP,
        errno.EISDIR,
        errno.ELIBBAD,
        errno.EINVAL,
    }
)
"""Error numbers of execve(2) and chdir(2) that the program or the working directory explains."""

_LOOK_WITHIN = 2.0
_limiter = ThreadLimiter(8)
_MAX_STRING = 32 * os.sysconf("SC_PAGE_SIZE")
"""Bytes that one argument or variable may have (MAX_ARG_STRLEN)."""
_NO_MORE_PROCESSES = (
    "no more processes may be started (see `ulimit -u`, and pids.max of the cgroup)"
)


def is_exhaustion(exc: Exception) -> bool:
    """Whether a start failed for lack of descriptors, memory, processes or threads."""
    number = getattr(exc, "errno", None)
    # RuntimeError: no thread can be started. EAGAIN: no process can be (fork(2)).
    return isinstance(exc, RuntimeError) or number in OUT_OF_RESOURCES or number == errno.EAGAIN


def why_not_started(
    exc: Exception, program: str, command: Sequence[str], env: Mapping[str, str]
) -> str:
    """Explain what was raised when a process was to be started, as far as the error itself does."""
    number = getattr(exc, "errno", None)
    reason = getattr(exc, "strerror", None) or str(exc)
    if number in OUT_OF_RESOURCES:
        return f"{reason} in the mesh (see `ulimit -n`)"
    if number == errno.E2BIG:
        return f"{reason}: {_sizes(command, env)}"
    if number == errno.EAGAIN:
        return f"{reason}: {_NO_MORE_PROCESSES}"
    if number == errno.ETXTBSY:
        return (
            f"{reason}: {whole(program)!r} is open for writing in some process; to replace a "
            "program, rename the new file over it"
        )
    return whole(reason)


async def why_not_executed(config: PluginConfig) -> str:
    """What is wrong with a plugin's program, or its working directory; "" if nothing is found.

    Shielded from cancellation, and bounded: a filesystem may not answer.
    """
    with trio.move_on_after(_LOOK_WITHIN, shield=True):
        try:
            return await trio.to_thread.run_sync(
                problem_of, config, abandon_on_cancel=True, limiter=_limiter.get()
            )
        except RuntimeError:
            pass  # no thread can be started
    return ""


def _sizes(command: Sequence[str], env: Mapping[str, str]) -> str:
    strings = {f"argument {number}": word for number, word in enumerate(command)}
    strings |= {f"variable {name}": f"{name}={value}" for name, value in env.items()}
    sizes = {name: len(os.fsencode(text)) + 1 for name, text in strings.items()}
    name = max(sizes, key=sizes.__getitem__)
    return (
        f"the arguments and the environment have {sum(sizes.values()):,} bytes, of which "
        f"{whole(name)} has {sizes[name]:,}; one may have {_MAX_STRING:,}, and all of them a "
        "quarter of `ulimit -s`"
    )
