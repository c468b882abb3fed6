"""The tasks that run the handlers of a connection, one call after another.

Starting a task and opening a cancel scope take as long as the rest of a small call. So a task waits
for another call when its call has ended, and a connection keeps as many waiting tasks as it has
recently needed. Each call still has a context of its own (contextvars), and for as long as it lasts
a cancel scope of its own: a scope that was cancelled, or whose deadline has passed, ends its task.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Callable
from typing import Any, Protocol

import trio

_WAITING = "waiting for a call"


class HandledCall(Protocol):
    """The part of a call on a server that its task uses."""

    path: str
    """The `:path`, by which the task is named."""
    timeout: float | None
    """Seconds after which its scope is cancelled."""

    async def run(self, scope: trio.CancelScope) -> bool:
        """Run the handler, and end the call unless this raises.

        Returns whether the scope was not cancelled.
        """

    def end_after(self, exc: BaseException | None) -> None:
        """End the call if `run` has not; None: its scope was cancelled, and nothing else raised.

        Raises the cancellation in `exc`, if it has one.
        """


class HandlerTasks:
    """The tasks of one connection."""

    def __init__(self, start_soon: Callable[..., object]) -> None:
        """`start_soon` starts a task that is cancelled with the connection."""
        self._start_soon = start_soon
        self._waiting: list[_HandlerTask] = []
        """Tasks that wait for a call; the last one has waited for the shortest time."""
        self._min_waiting = 0
        """Minimum number of waiting tasks since `end_unused`."""

    def start(self, call: HandledCall) -> None:
        """Run a call soon, in a copy of the current context."""
        if not self._waiting:
            self._start_soon(_HandlerTask(self._waiting).run, call)
            return
        self._waiting.pop().assign(call)
        if len(self._waiting) < self._min_waiting:
            self._min_waiting = len(self._waiting)

    def end_unused(self) -> None:
        """End the tasks that were not needed since the last time; called periodically."""
        for task in self._waiting[: self._min_waiting]:
            task.assign(None)
        del self._waiting[: self._min_waiting]
        self._min_waiting = len(self._waiting)


class _HandlerTask:
    __slots__ = ("_has_deadline", "_next_call", "_scope", "_task", "_waiting")

    def __init__(self, waiting: list[_HandlerTask]) -> None:
        self._waiting = waiting
        self._task: trio.lowlevel.Task
        self._scope = trio.CancelScope()
        self._next_call: HandledCall | None = None
        self._has_deadline = False

    async def run(self, first_call: HandledCall) -> None:
        """Serve calls until one is cancelled, or no more are needed."""
        task, scope = trio.lowlevel.current_task(), self._scope
        self._task = task
        call: HandledCall | None = first_call
        self._prepare(first_call)
        del first_call
        try:
            with scope:
                innermost = _innermost_scope(task)
                # A scope that a handler has opened and not closed must not enclose another call:
                # leaving `scope` raises for it.
                while call is not None:
                    if not await call.run(scope) or _innermost_scope(task) is not innermost:
                        break
                    # Nothing is kept of the last call.
                    task.name, task.context, call = _WAITING, contextvars.Context(), None
                    self._waiting.append(self)
                    await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)
                    call = self._take_next_call()
        except BaseException as exc:
            if call is None:
                raise
            call.end_after(exc)
        else:
            if call is not None:
                call.end_after(None)

    def assign(self, call: HandledCall | None) -> None:
        """Resume the task with a call, or end it."""
        self._next_call = call
        self._task.context = contextvars.copy_context()
        trio.lowlevel.reschedule(self._task)
        if call is not None:
            self._prepare(call)  # The task does not wait any more, so this cannot cancel its wait.

    def _prepare(self, call: HandledCall) -> None:
        self._task.name = call.path
        # The deadline of the last call is left until there is another: it ends the waiting task.
        timeout = call.timeout
        if timeout is not None:
            self._scope.deadline = trio.current_time() + timeout
            if not timeout:
                self._scope.cancel()
        elif self._has_deadline:
            self._scope.deadline = math.inf
        self._has_deadline = timeout is not None

    def _take_next_call(self) -> HandledCall | None:
        call, self._next_call = self._next_call, None
        return call

    def _stop_waiting(self, _: Any) -> trio.lowlevel.Abort:
        self._waiting.remove(self)
        return trio.lowlevel.Abort.SUCCEEDED


def _innermost_scope(task: trio.lowlevel.Task) -> object:
    """Return what identifies the innermost cancel scope of a task.

    Trio has no public name for it. In a trio without this one, tasks serve a single call.
    """
    return getattr(task, "_cancel_status", None) or object()
