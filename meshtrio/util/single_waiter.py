"""The cheapest way for one task to wait for another one in trio."""

from __future__ import annotations

from typing import Any

import trio


class SingleWaiter:
    """Parks at most one task; `wake` does nothing if no task waits, and is not remembered.

    So the waiting task must check its condition, and the other task change it, without a checkpoint
    before `wait` and `wake`.
    """

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    async def wait(self) -> None:
        """Wait for `wake`.

        Raises:
            BusyResourceError: Another task is waiting.

        Cancellation: the task stops waiting.
        """
        if self._task is not None:
            raise trio.BusyResourceError("another task is using this side of the call already")
        self._task = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, raise_cancel: Any) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        """Wake the waiting task, if there is one."""
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)
