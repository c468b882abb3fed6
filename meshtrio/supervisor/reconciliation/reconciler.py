"""Starts, replaces and stops runs until they are as the phases of the instances demand."""

from __future__ import annotations

import logging
from collections.abc import Callable

import attrs
import trio

from meshtrio.config import ReplacementOrder
from meshtrio.supervisor import events
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.instance_table import InstanceTable
from meshtrio.supervisor.policy.plan import DependencyStatus, plan
from meshtrio.supervisor.policy.state import InstancePhase
from meshtrio.supervisor.reconciliation.demand_controller import DemandController, take_idle_report
from meshtrio.supervisor.reconciliation.dependency_tracker import DependencyTracker
from meshtrio.supervisor.reconciliation.run_factory import RunFactory
from meshtrio.supervisor.reconciliation.run_reaper import RunReaper
from meshtrio.supervisor.runs.process_run import ProcessRun
from meshtrio.supervisor.tasks.runner import TaskRunner

_log = logging.getLogger("meshtrio.mesh")

_DRAIN_DELAY = 0.1
"""Seconds from leaving the registry to SIGTERM, except while the whole mesh stops."""


@attrs.define(kw_only=True)
class Reconciler:
    """Carries out what is due, in the turns of the supervisor loop."""

    table: InstanceTable
    """All instances."""
    tasks: TaskRunner
    """All tasks."""
    dependencies: DependencyTracker
    """What they wait for."""
    demand: DemandController
    """What starts instances on demand."""
    factory: RunFactory
    """What makes their runs."""
    reaper: RunReaper
    """What runs them to their ends."""
    emit: Callable[..., None]
    """Called as `emit(instance, kind, **values)` for events."""
    on_request: Callable[[], None]
    """Called if there is more to plan."""
    starts_paused: bool = False
    """Whether no process is started, since an upgrade waits for those that start."""

    def reconcile(self, runs: trio.Nursery, max_starting: int, *, is_stopping: bool) -> float:
        """Start, replace and stop what is due; returns when there is more to do.

        Args:
            runs: The nursery of all runs.
            max_starting: The maximum of instances that start at the same time.
            is_stopping: Whether the mesh stops.
        """
        status = self.dependencies.status()
        wake_at = self.tasks.reconcile(
            runs, status, is_stopping=is_stopping, starts_paused=self.starts_paused
        )
        next_start = self._apply_plan(runs, status, max_starting, is_stopping=is_stopping)
        for instance in self.table.instances:
            self._replace(instance, runs)
            self._stop_if_idle(instance)
            self.demand.watch(instance, runs)
            if instance.is_demand_deferred:
                instance.is_demand_deferred = trio.current_time() < instance.start_at
            if instance.is_demand_deferred:
                wake_at = min(wake_at, instance.start_at)
        self.demand.report()
        return min(wake_at, next_start)

    def _apply_plan(
        self,
        runs: trio.Nursery,
        status: DependencyStatus,
        max_starting: int,
        *,
        is_stopping: bool,
    ) -> float:
        """Start and stop instances in order; return when the next start is due."""
        now, blocked = trio.current_time(), status.find_blocked()
        dependencies = self.dependencies.dependencies
        todo = plan(self.table.instances, dependencies, now, max_starting, blocked)
        # Tasks may use plugins to their end.
        for instance in () if is_stopping and self.tasks.is_running else todo.stop:
            instance.terminate(0 if is_stopping else _DRAIN_DELAY)
        for instance in () if self.starts_paused else todo.start:
            instance.launch(self._start_run(instance, instance.slot, runs))
        return todo.wake_at

    def _start_run(self, instance: Instance, slot: int, runs: trio.Nursery) -> ProcessRun:
        run = self.factory.make_run(instance, slot)
        runs.start_soon(self.reaper.run, instance, run)
        return run

    def _stop_if_idle(self, instance: Instance) -> None:
        """Stop the process of an instance that has no calls, if it is started again on demand."""
        if take_idle_report(instance) and not self.starts_paused:
            timeout = instance.config.idle_timeout
            _log.info(
                "%s: no calls for %g s; stopping it until it is needed", instance.name, timeout
            )
            instance.idle(_DRAIN_DELAY)

    def _replace(self, instance: Instance, runs: trio.Nursery) -> None:
        """Begin a replacement that is requested, or finish one that is ready."""
        if instance.phase is InstancePhase.REPLACE_QUEUED:
            if not self._can_replace(instance):
                return
            assert instance.replacement is not None
            if instance.config.replacement_order is ReplacementOrder.STOP_FIRST:
                self._restart_for_replacement(instance, instance.replacement.reason)
            else:
                self.emit(instance, events.Renewing, reason=instance.replacement.reason)
                instance.launch(self._start_run(instance, 1 - instance.slot, runs))
        elif instance.replacement_run is not None and instance.replacement_run.is_ready:
            instance.promote(_DRAIN_DELAY)

    def _can_replace(self, instance: Instance) -> bool:
        # A run that drains still has the address of the replacement.
        is_possible = instance.is_ready and not instance.draining_runs
        return instance.replacement is not None and is_possible and not self.starts_paused

    def _restart_for_replacement(self, instance: Instance, reason: str) -> None:
        self.emit(instance, events.Renewing, reason=f"{reason}; its process is stopped first")
        instance.restart_for_replacement()
        self.on_request()
