"""Finds which dependencies of plugins and tasks are met."""

from __future__ import annotations

from meshtrio.config.topology import Dependencies, Topology
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.instance_table import InstanceTable
from meshtrio.supervisor.policy.plan import DependencyStatus, find_unready_dependencies
from meshtrio.supervisor.policy.state import InstancePhase
from meshtrio.supervisor.reconciliation.waiting import DependencyExplainer
from meshtrio.supervisor.tasks.runner import TaskRunner


class DependencyTracker:
    """Compares the dependencies of a config with the tables of instances and tasks."""

    def __init__(self, table: InstanceTable, tasks: TaskRunner) -> None:
        """Create a tracker without dependencies; see `configure`."""
        self.dependencies: Dependencies = {}
        """The plugins that each plugin or task waits for to be ready."""
        self._completions: Dependencies = {}
        self._table = table
        self._tasks = tasks

    def configure(self, topology: Topology) -> None:
        """Use the dependencies of another config."""
        self.dependencies = topology.dependencies()
        self._completions = topology.completions()

    def status(self) -> DependencyStatus:
        """Return which dependencies are met."""
        exited = {
            name
            for name, instances in self._table.by_plugin().items()
            if all(each.phase is InstancePhase.EXITED for each in instances)
        }
        available = (each.plugin for each in self._table.instances if each.is_available)
        return DependencyStatus(
            self.dependencies,
            self._completions,
            ready=frozenset(available),
            completed=self._tasks.completed | exited,
        )

    def waits_in_vain(self, instance: Instance) -> bool:
        """Whether an instance is not started, since what it needs was stopped or has failed."""
        if not instance.phase.is_waiting or instance.is_running:
            return False
        needed = find_unready_dependencies(instance, self._table.instances, self.dependencies)
        is_down = any(all(each.phase.is_final for each in of_plugin) for of_plugin in needed)
        return is_down or bool(self.explain().explain_failure(instance.plugin))

    def explain(self) -> DependencyExplainer:
        """Return explanations of the dependencies that are not met."""
        return DependencyExplainer(self.status(), self._table.instances, self._tasks.tasks)
