"""Explains what a plugin or task waits for, from the tables of instances and tasks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import attrs

from meshtrio.supervisor.event_text import format_last_stderr_line
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.policy.plan import DependencyStatus
from meshtrio.supervisor.policy.restart import Exit
from meshtrio.supervisor.policy.state import InstancePhase
from meshtrio.supervisor.tasks.state import TaskState
from meshtrio.supervisor.tasks.task import Task


@attrs.frozen
class DependencyExplainer:
    """Explains the dependencies that are not met."""

    _status: DependencyStatus
    _instances: Sequence[Instance]
    _tasks: Mapping[str, Task]

    def explain(self, name: str) -> str:
        """Explain what a plugin or task waits for to have completed; "" if it waits for none.

        A failure that it waits for, if only indirectly, comes first.
        """
        incomplete = (f"waits for {text}" for text, _ in self._incomplete(name))
        return self.explain_failure(name) or "; ".join(incomplete)

    def explain_all(self, name: str) -> str:
        """Explain what a plugin or task waits for, plugins that are not ready included."""
        unready = (f"waits for {each} to be ready" for each in self._sorted_unready(name))
        return self.explain_failure(name) or "; ".join(filter(None, (self.explain(name), *unready)))

    def explain_failure(self, name: str) -> str:
        """Explain a dependency, direct or not, that has failed, so that there is no point in
        waiting for it; "" if there is none."""
        seen, queue = {name}, [(name, "")]
        while queue:
            found, path = queue.pop(0)
            for text, has_failed in self._incomplete(found):
                if has_failed:
                    return f"{path}waits for {text}"
            needed = (*self._sorted_unready(found), *sorted(self._status.find_incomplete(found)))
            new = [each for each in needed if each not in seen]
            seen.update(new)
            queue += [(each, f"{path}waits for {each}, which ") for each in new]
        return ""

    def _sorted_unready(self, name: str) -> list[str]:
        return sorted(self._status.find_unready(name))

    def _incomplete(self, name: str) -> Iterable[tuple[str, bool]]:
        """Yield a text on each dependency that has not completed, and whether it has failed."""
        for each in sorted(self._status.find_incomplete(name)):
            task = self._tasks.get(each)
            yield self._describe_plugin(each) if task is None else _describe_task(task)

    def _describe_plugin(self, name: str) -> tuple[str, bool]:
        subject = f"plugin {name}"
        for each in self._instances:
            if each.plugin == name and each.phase is InstancePhase.FAILED:
                return f"{subject}, which failed: {_describe_exit(each.last_exit)}", True
            if each.plugin == name and each.phase is InstancePhase.STOPPED:
                return f"{subject}, which was stopped", True
        return f"{subject} to complete", False


def _describe_task(task: Task) -> tuple[str, bool]:
    subject = f"task {task.name}"
    if task.state is TaskState.FAILED:
        return f"{subject}, which failed: {_describe_exit(task.last_exit)}", True
    if task.state is TaskState.STOPPED:
        return f"{subject}, which was stopped", True
    return f"{subject} to complete", False


def _describe_exit(exit: Exit | None) -> str:
    return "" if exit is None else f"{exit}{format_last_stderr_line(exit.stderr_tail)}"
