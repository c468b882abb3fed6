"""Decides what follows the end of a plugin's process, for it and for other plugins. Pure.

Source: OTP's supervisor, with its restart strategies and intensity. A plugin corresponds to a
child, and a group to its supervisor.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from enum import Enum
from random import Random

import attrs

from meshtrio.config import EscalationScope, GroupConfig, PluginConfig, RestartPolicy, Strategy
from meshtrio.config.topology import Topology

_UNKNOWN_STATUS_REASON = (
    "ended, but its exit status is not known: other code of the mesh's program has waited for it, "
    "or ignores SIGCHLD"
)


class ExitCause(Enum):
    """Why a process ended without a request to stop; the values are metric labels."""

    EXITED = "exit"
    """The process exited."""
    KILLED = "signal"
    """The process was killed by a signal that the mesh has not sent."""
    NOT_STARTED = "not_started"
    """The process could not be started."""
    NOT_READY = "not_ready"
    """The process was not ready within `ready_timeout`."""
    UNHEALTHY = "liveness"
    """The process did not answer its health checks."""
    MEMORY_LIMIT = "memory"
    """The process used more memory than it may."""
    WRONG_SERVER = "wrong_server"
    """Another program answered at the process's address."""
    INTERNAL_ERROR = "internal_error"
    """The mesh itself failed to supervise the process."""


@attrs.frozen
class Exit:
    """How a process ended, or is to be ended as a failure, or why it could not be started."""

    status: int | None = None
    """The exit status, None if the process was killed, was not started, or it is not known."""
    signal: int | None = None
    """The number of the signal that killed the process, None if none did."""
    reason: str = ""
    """Why the mesh ended the process, as a phrase that follows "instance 0 (pid 4711)"; "" if it
    ended by itself."""
    explicit_cause: ExitCause | None = None
    """The cause by which it is counted if the mesh ended the process."""
    is_unkillable: bool = False
    """Whether the process could not be killed and still runs."""
    stderr_tail: tuple[str, ...] = ()
    """The last lines that the process wrote to stderr."""
    is_resource_exhaustion: bool = False
    """Whether the process could not be started for lack of descriptors, memory or processes, which
    is not its own failure."""

    @property
    def cause(self) -> ExitCause:
        """The cause by which ends are counted."""
        if self.explicit_cause is not None:
            return self.explicit_cause
        return ExitCause.EXITED if self.signal is None else ExitCause.KILLED

    @property
    def is_stuck(self) -> bool:
        """Whether the mesh gives the process no time to drain."""
        return self.explicit_cause in (ExitCause.UNHEALTHY, ExitCause.MEMORY_LIMIT)

    @property
    def is_clean(self) -> bool:
        """Whether the process exited with status 0 and was not ended as a failure."""
        return self.status == 0 and not self.reason

    def __str__(self) -> str:
        """Return a phrase that follows "instance 0 (pid 4711)"."""
        ended = "" if self.status is None else f"exited with status {self.status}"
        if self.signal is not None:
            ended = f"was killed by {signal_name(self.signal)}"
        return "; it ".join(filter(None, (self.reason, ended)))


def make_exit(
    returncode: int | None, failure: Exit, *, is_unkillable: bool, stderr_tail: Sequence[str]
) -> Exit:
    """Make the exit of a process that was started.

    The return code is as in subprocess, None if it is not known. The failure is why the mesh ended
    the process, if it did.
    """
    reason = failure.reason
    if is_unkillable:
        reason = f"{reason or 'was to stop'}; it cannot be killed, left running"
    elif returncode is None:
        reason = "; it ".join(filter(None, (reason, _UNKNOWN_STATUS_REASON)))
    return attrs.evolve(
        failure,
        status=returncode if returncode is not None and returncode >= 0 else None,
        signal=-returncode if returncode is not None and returncode < 0 else None,
        reason=reason,
        is_unkillable=is_unkillable,
        stderr_tail=tuple(stderr_tail),
    )


def signal_name(number: int) -> str:
    """Return the name of a signal, such as SIGTERM."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@attrs.frozen
class RestartHistory:
    """The restarts of an instance so far."""

    restarts: int = 0
    """Total number of restarts."""
    consecutive_failures: int = 0
    """Number of failures in a row, which determines the delay of the next restart."""
    recent_restarts: tuple[float, ...] = ()
    """The times of the restarts within `restart_period`, if `max_restarts` is set."""


@attrs.frozen
class Restart:
    """Start the instance again."""

    delay: float
    """Seconds until the start."""
    history: RestartHistory
    """The history including this restart."""


@attrs.frozen
class Finish:
    """Leave the instance down, as its `restart` policy says, or give up after too many restarts."""

    is_failure: bool
    """Whether the process failed; otherwise its work is done."""
    restarts: int | None = None
    """The number of restarts within `restart_period`, if they were too many; otherwise None."""


@attrs.frozen
class AwaitDemand:
    """Start the instance again at the next connection or call."""

    delay: float
    """Seconds until it is started at the earliest, so that one which exits again and again without
    accepting the connections that wait does not keep the machine busy."""
    history: RestartHistory
    """The history including this exit."""


def decide_restart(
    config: PluginConfig,
    history: RestartHistory,
    exit: Exit,
    since_ready: float | None,
    now: float,
    rng: Random,
) -> Restart | AwaitDemand | Finish:
    """Decide what follows a process that ended without a request to stop.

    Only a process that was ready for `min_uptime` ends a row of failures: one that never gets ready
    may well live longer than that. `since_ready` are the seconds from when it was first ready to
    its end at `now`, None if it never was.
    """
    lasted = since_ready is not None and since_ready >= config.min_uptime
    failures = 1 if lasted else history.consecutive_failures + 1
    if not _should_restart(config, exit):
        if exit.is_clean and config.start.is_on_demand:
            following = attrs.evolve(history, consecutive_failures=failures)
            return AwaitDemand(config.backoff.delay(failures, rng), following)
        return Finish(is_failure=not exit.is_clean)
    recent: tuple[float, ...] = ()
    if exit.is_resource_exhaustion:
        recent = history.recent_restarts
    elif config.max_restarts is not None:
        recent = (*recent_times(history.recent_restarts, config.restart_period, now), now)
        if len(recent) > config.max_restarts:
            return Finish(is_failure=True, restarts=config.max_restarts)
    following = RestartHistory(history.restarts + 1, failures, recent)
    return Restart(config.backoff.delay(failures, rng), following)


def _should_restart(config: PluginConfig, exit: Exit) -> bool:
    # The status of a process that the mesh ended was not its own choice.
    status = None if exit.reason else exit.status
    if status in config.never_restart_on:
        return False
    if status in config.always_restart_on:
        return True
    if config.restart is RestartPolicy.ON_FAILURE:
        return not exit.is_clean
    return config.restart is RestartPolicy.ALWAYS


def recent_times(times: tuple[float, ...], period: float, now: float) -> tuple[float, ...]:
    """Return the times within the last `period` seconds."""
    return tuple(time for time in times if now - time < period)


# -- restart strategies and escalation --

GroupRestartTimes = Mapping[str, tuple[float, ...]]
"""The times of a group's restarts after a member gave up, within its period, by group."""


def plugins_restarted_with(relations: Topology, plugin: str) -> tuple[str, ...]:
    """Return the other plugins that are restarted with an instance, by its group's strategy."""
    group = relations.group_of(plugin)
    restarted = () if group is None else _plugins_to_restart(relations, group, plugin)
    return tuple(name for name in restarted if name != plugin)


def _plugins_to_restart(relations: Topology, group: GroupConfig, member: str) -> tuple[str, ...]:
    """Return the plugins that are restarted when a member fails, including its own, in order."""
    members: tuple[str, ...] = (member,)
    if group.strategy is Strategy.ONE_FOR_ALL:
        members = group.members
    elif group.strategy is Strategy.REST_FOR_ONE:
        members = group.members[group.members.index(member) :]
    return tuple(name for each in members for name in relations.plugins_in(each))


@attrs.frozen
class RestartGroup:
    """Stop plugins of a group, in reverse order, and start them again."""

    group: str
    """The name of the group."""
    plugins: tuple[str, ...]
    """The plugins to restart."""
    restart_times: GroupRestartTimes
    """The restart times of all groups, including this restart."""


@attrs.frozen
class EscalateToMesh:
    """Stop the mesh."""

    failed_groups: tuple[str, ...]
    """The groups that failed on the way, innermost first."""


def escalate(
    relations: Topology, plugin: PluginConfig, restart_times: GroupRestartTimes, now: float
) -> RestartGroup | EscalateToMesh | None:
    """Decide what happens to others after a plugin gave up at `now`; None for nothing."""
    if plugin.escalate is EscalationScope.PLUGIN:
        return None
    failed: list[str] = []
    name: str = plugin.name
    to: EscalationScope = plugin.escalate
    while to is EscalationScope.GROUP:
        group = relations.group_of(name)
        if group is None:
            break
        times = recent_times(restart_times.get(group.name, ()), group.restart_period, now)
        if len(times) < group.max_restarts:
            plugins = _plugins_to_restart(relations, group, name)
            return RestartGroup(group.name, plugins, {**restart_times, group.name: (*times, now)})
        failed.append(group.name)
        name, to = group.name, group.escalate
    return EscalateToMesh(tuple(failed))
