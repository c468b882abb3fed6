"""What the ends of plugins' and tasks' processes have in common."""

from __future__ import annotations

import logging
import signal

from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.policy.restart import Exit, ExitCause, make_exit
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.runs.output_reader import OutputReader
from meshtrio.util.concurrency import find_exit_exception, split_cancelled
from meshtrio.util.text import replace_surrogates

_log = logging.getLogger("meshtrio.mesh")


def handle_internal_error(name: str, exc: BaseException) -> Exit:
    """Turn an error of the mesh itself into the failure of one run, and of nothing else.

    Raises what is not an error: cancellation, SystemExit and KeyboardInterrupt.
    """
    cancelled, error = split_cancelled(exc)
    if error is None or find_exit_exception(error) is not None:
        raise exc
    _log.error("%s: internal error", name, exc_info=error)
    if cancelled is not None:
        raise cancelled
    text = f"was ended by an internal error of the mesh: {type(error).__name__}: {error}"
    return Exit(reason=replace_surrogates(text), explicit_cause=ExitCause.INTERNAL_ERROR)


def make_process_exit(
    process: PluginProcess, failure: Exit, reader: OutputReader, launch_id: str, effects: Effects
) -> Exit:
    """Make the exit of a process, whose remaining output is read; `failure` is why the mesh ended
    it, if it did."""
    reader.read_remaining()
    cgroups = effects.cgroups
    was_killed = process.returncode == -signal.SIGKILL
    if was_killed and cgroups is not None and cgroups.was_oom_killed(launch_id):
        text = failure.reason or "used more memory than it may"
        cause = failure.explicit_cause or ExitCause.MEMORY_LIMIT
        failure = Exit(reason=text, explicit_cause=cause)
    is_unkillable, tail = not process.has_exited, reader.stderr_tail
    return make_exit(process.returncode, failure, is_unkillable=is_unkillable, stderr_tail=tail)
