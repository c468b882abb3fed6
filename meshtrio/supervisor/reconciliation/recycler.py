"""Replaces runs that have become too old, too large or unreachable."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence

import trio

from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.policy.state import InstancePhase
from meshtrio.supervisor.process.proc.connections import count_connections
from meshtrio.supervisor.runs.process_run import ProcessRun
from meshtrio.supervisor.tasks.run import TaskRun
from meshtrio.supervisor.tasks.task import Task
from meshtrio.util.concurrency import sleep_until_tick

_log = logging.getLogger("meshtrio.mesh")

_CHECK_INTERVAL = 1.0


async def recycle_runs(
    list_instances: Callable[[], Sequence[Instance]],
    list_tasks: Callable[[], Iterable[Task]],
    effects: Effects,
    on_request: Callable[[], None],
) -> None:
    """Check all instances and tasks once a second and request replacements, until cancelled.

    `list_instances` and `list_tasks` return those that there are now, and `on_request` is called
    after a request. A check that raises is logged.
    """
    while True:
        await sleep_until_tick(_CHECK_INTERVAL)
        try:
            await _check(list_instances(), list(list_tasks()), effects, on_request)
        except Exception:
            _log.exception("cannot check which instances to replace")


async def _check(
    instances: Sequence[Instance],
    tasks: Sequence[Task],
    effects: Effects,
    on_request: Callable[[], None],
) -> None:
    with_process = [each for each in instances if each.process is not None]
    owners: list[Instance | Task] = [*instances, *tasks]
    for owner in owners:
        owner.unkillable = tuple(each for each in owner.unkillable if each.is_running)
    limited = [task.run for task in tasks if task.run and task.config.containment.memory]
    if limited or any(each.config.monitors_memory for each in with_process):
        runs = [run for instance in with_process for run in instance.runs()]
        await _check_memory([*runs, *limited], effects)
    for instance in instances:
        if (watch := instance.demand_watch) is not None and watch.is_path_lost:
            watch.cancel()
            on_request()
    await check_connections(with_process)
    for instance in with_process:
        for run in instance.runs():
            run.check_socket()
        if reason := find_replace_reason(instance, effects):
            instance.request_replacement(reason)
            on_request()


async def _check_memory(runs: Iterable[ProcessRun | TaskRun], effects: Effects) -> None:
    try:
        rss_by_group = await effects.read_rss_by_group()
    except (OSError, RuntimeError) as exc:
        _log.warning("cannot read the memory usage of plugins: %s", exc)
        return
    for run in runs:
        if run.process is not None:
            run.record_rss(rss_by_group.get(run.process.pid, 0))


async def check_connections(instances: Iterable[Instance]) -> None:
    """Find the runs to which there were no connections for their `idle_timeout`."""
    for instance in instances:
        run = instance.active_run
        if run is None or not run.is_ready or run.config.idle_timeout is None:
            continue
        checks_ended = run.checks_ended
        try:
            count = await trio.to_thread.run_sync(
                count_connections, run.spec.address, abandon_on_cancel=True
            )
        except RuntimeError as exc:
            _log.warning("cannot count the connections to %s: %s", instance.name, exc)
            continue
        now, ready_at = trio.current_time(), run.ready_at or math.inf
        if count == 1 and run.checks_begun != checks_ended:
            continue  # It may be that of a health check, all of which begin at such times.
        if count != 0:  # If it is not known, the plugin has to report that it is idle.
            run.last_connected_at = now
        elif now - max(run.last_connected_at, ready_at) >= run.config.idle_timeout:
            run.report_idle()


def find_replace_reason(instance: Instance, effects: Effects) -> str:
    """Find why the active run should be replaced, as a phrase; "" if there is no reason."""
    run, config = instance.active_run, instance.config
    if instance.phase is not InstancePhase.RUNNING or run is None or not run.is_ready:
        return ""
    if run.is_kill_requested or trio.current_time() < instance.next_replace_at:
        return ""
    if config.max_age is not None:
        if run.max_age_factor is None:
            run.max_age_factor = 1 + config.max_age_variance * (2 * effects.rng.random() - 1)
        if run.uptime > config.max_age * run.max_age_factor:
            return f"it is {run.uptime:.0f} s old"
    if config.renew_above is not None and run.rss > config.renew_above:
        return f"it uses {run.rss:,} bytes of memory"
    uses_socket = config.has_service and config.listen is None
    if uses_socket and effects.is_socket_removed(run.socket):
        return f"its socket {run.socket} was removed"
    return ""
