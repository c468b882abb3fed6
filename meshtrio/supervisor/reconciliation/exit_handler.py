"""Carries out what follows the end of a run: a restart, an escalation, or that it stays down.

`policy.restart` decides it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from random import Random

import attrs
import trio

from meshtrio.config.topology import Topology
from meshtrio.errors import MeshFailedError
from meshtrio.supervisor import events
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.instance_table import InstanceTable
from meshtrio.supervisor.policy import restart
from meshtrio.supervisor.process.saved_processes import from_monotonic, to_monotonic
from meshtrio.supervisor.runs.process_run import ProcessRun

_MAX_UNKILLABLE = 3
"""Processes of one instance that cannot be killed and still run, above which it is not started
again: each start would leave another."""


class ExitHandler:
    """Changes instances when their runs end; the supervisor loop starts them again."""

    def __init__(
        self,
        table: InstanceTable,
        topology: Topology,
        rng: Random,
        *,
        emit: Callable[..., None],
        fail: Callable[[BaseException], None],
    ) -> None:
        """Create a handler.

        Args:
            table: All instances.
            topology: The groups of the plugins.
            rng: Makes the jitter of delays.
            emit: Called as `emit(instance, kind, **values)` for events.
            fail: Called with a failure that is escalated to the mesh.
        """
        self.topology = topology
        """The groups of the plugins, by the config in force."""
        self._table = table
        self._rng = rng
        self._emit = emit
        self._fail = fail
        self._batch_ids = itertools.count(1)
        self._recent_group_restarts: restart.GroupRestartTimes = {}

    def adopt(self, group_restarts: Mapping[str, Iterable[float]]) -> None:
        """Take over the times of restarts from before an upgrade; the instances are adopted."""
        self._recent_group_restarts = {
            name: tuple(map(from_monotonic, times)) for name, times in group_restarts.items()
        }
        batches = (instance.batch for instance in self._table.instances)
        self._batch_ids = itertools.count(1 + max(batches, default=0))

    def save(self) -> dict[str, tuple[float, ...]]:
        """Return what an upgrade hands over: when each group was restarted."""
        return {
            name: tuple(map(to_monotonic, times))
            for name, times in self._recent_group_restarts.items()
        }

    def handle_exit(self, instance: Instance, run: ProcessRun) -> None:
        """Remove a run that has ended from its instance, and do what follows."""
        failures = instance.replace_failures
        if instance.handle_exit(run):
            self._apply_restart_policy(instance, run)
        elif instance.replace_failures > failures:
            delay = instance.config.backoff.delay(instance.replace_failures, self._rng)
            instance.next_replace_at = trio.current_time() + delay

    def _apply_restart_policy(self, instance: Instance, run: ProcessRun) -> None:
        process_exit, now = run.exit, trio.current_time()
        assert process_exit is not None
        since_ready = None if run.ready_at is None else now - run.ready_at
        decision = restart.decide_restart(
            instance.config, instance.history, process_exit, since_ready, now, self._rng
        )
        if process_exit.is_unkillable and len(instance.unkillable) > _MAX_UNKILLABLE:
            text = f"{process_exit}, as do {len(instance.unkillable) - 1} others of its processes"
            process_exit = attrs.evolve(process_exit, reason=f"{text}; it is not started again")
            instance.last_exit = process_exit
            decision = restart.Finish(is_failure=True)
        match decision:
            case restart.Restart(delay=delay, history=history):
                instance.retry(history, now + delay)
                self._emit(instance, events.Restarting, delay=delay, cause=process_exit.cause)
                companions = restart.plugins_restarted_with(self.topology, instance.plugin)
                if companions:
                    self._restart_together([instance, *self._table.select(companions)])
            case restart.AwaitDemand(delay=delay, history=history):
                was_ready = run.ready_at is not None
                instance.await_demand(history, now + delay, was_ready=was_ready)
            case restart.Finish(is_failure=is_failure, restarts=restarts):
                instance.finish(is_failure=is_failure)
                self._emit(instance, events.GaveUp, exit=process_exit, restarts=restarts)
                if restarts is not None:
                    self._escalate(instance, process_exit, restarts, now)

    def _escalate(self, instance: Instance, exit: restart.Exit, restarts: int, now: float) -> None:
        times = self._recent_group_restarts
        result = restart.escalate(self.topology, instance.config, times, now)
        if result is None:
            return
        if isinstance(result, restart.EscalateToMesh):
            limits = restarts, instance.config.restart_period, result.failed_groups
            ended = str(exit), exit.stderr_tail
            self._fail(MeshFailedError(instance.plugin, instance.number, *limits, *ended))
            return
        self._recent_group_restarts = result.restart_times
        self._emit(instance, events.GroupRestarting, group=result.group, plugins=result.plugins)
        members = self._table.select(result.plugins)
        for member in members:
            member.reset_history()
        self._restart_together(members)

    def _restart_together(self, instances: Iterable[Instance]) -> None:
        """Stop those that run, and start none before all of them have stopped."""
        batch = next(self._batch_ids)
        for instance in instances:
            instance.request_restart(batch)
