"""Starts idle instances when there is demand, and finds those whose process has no calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import trio

from meshtrio.discovery.registry import Registry
from meshtrio.supervisor.demand import DemandWatch
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.instance_table import InstanceTable
from meshtrio.supervisor.policy.state import InstancePhase
from meshtrio.supervisor.reconciliation.dependency_tracker import DependencyTracker
from meshtrio.supervisor.reconciliation.run_factory import RunFactory


class DemandController:
    """Watches the sockets of idle instances, and reports to callers which services they start."""

    def __init__(
        self,
        table: InstanceTable,
        dependencies: DependencyTracker,
        registry: Registry,
        factory: RunFactory,
        on_demand: Callable[[], None],
    ) -> None:
        """Create a controller.

        Args:
            table: All instances.
            dependencies: What they wait for.
            registry: Gets the services that calls start.
            factory: Makes the specs of their runs, with the addresses.
            on_demand: Called when an instance may be started, or is available.
        """
        self._table = table
        self._dependencies = dependencies
        self._registry = registry
        self._factory = factory
        self._on_demand = on_demand

    def handle_call(self, service: str) -> None:
        """Start the idle instances of the plugin whose service a call waits for."""
        for instance in self._table.instances:
            if instance.phase.is_idle and instance.config.service_name == service:
                instance.request_demand()
                self._on_demand()

    def watch(self, instance: Instance, runs: trio.Nursery) -> None:
        """Watch the socket of an instance if it is idle, in a task; otherwise end the watch."""
        watch = instance.demand_watch
        is_idle = instance.phase is InstancePhase.IDLE and not instance.is_running
        is_current = watch is not None and watch.config is instance.config and not watch.is_over
        if watch is not None and not (is_idle and is_current):
            watch.cancel()
            watch = instance.demand_watch = None
        if is_idle and watch is None:
            # After a change of the config it may be another socket.
            address = self._factory.make_spec(instance, instance.slot).address
            held = instance.held_sockets.get(address)
            watch = instance.demand_watch = DemandWatch(instance.config, held)
            runs.start_soon(self._run_watch, instance, watch)

    async def _run_watch(self, instance: Instance, watch: DemandWatch) -> None:
        def on_demand() -> None:
            if instance.demand_watch is watch:
                instance.request_demand()

        await watch.run(self._factory.directory, self._on_demand, on_demand)
        self._on_demand()

    def cancel_watches(self) -> None:
        """End all watches."""
        for instance in self._table.instances:
            if instance.demand_watch is not None:
                instance.demand_watch.cancel()

    def report(self) -> None:
        """Let callers know which services are started by their calls."""
        by_service: defaultdict[str, bool] = defaultdict(bool)
        for instance in self._table.instances:
            if instance.is_ready and not instance.phase.is_leaving:
                instance.is_demanded = False
            if instance.config.start.is_on_demand and instance.config.has_service:
                is_hopeless = self._dependencies.waits_in_vain(instance)
                awaits = instance.awaits_demand and not is_hopeless
                by_service[instance.config.service_name] |= awaits
        for service, on_demand in by_service.items():
            self._registry.set_on_demand(service, on_demand=on_demand)


def take_idle_report(instance: Instance) -> bool:
    """Return whether the process of an instance has reported that it has no calls, once.

    It has to be one that is started again on demand, and to have been ready for its `idle_timeout`:
    a call that it was started for may not have reached it before. What it has reported during an
    upgrade may be out of date.
    """
    run, timeout = instance.active_run, instance.config.idle_timeout
    if run is None or not run.is_idle:
        return False
    run.is_idle = False  # It is reported again.
    if timeout is None or run.ready_at is None or run.is_kill_requested:
        return False
    since = max(run.ready_at, run.supervised_since)
    was_ready_long = trio.current_time() - since >= timeout
    return instance.phase is InstancePhase.RUNNING and run.is_ready and was_ready_long
