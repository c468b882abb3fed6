"""A place for one task to wait in: the cheapest wake-up trio has."""

from __future__ import annotations

from typing import Any

import trio


class SingleWaiter:
    """Parks at most one task; `wake` does nothing when none waits, and is never remembered.

    The waiting task must therefore check its condition, and the waker change it, without a
    checkpoint between: tasks of one trio run do.
    """

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Wait to be woken; cancellable. Raises BusyResourceError for a second waiting task."""
        if self._task is not None:
            raise trio.BusyResourceError("another task is using this side of the call already")
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, raise_cancel: Any) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)
