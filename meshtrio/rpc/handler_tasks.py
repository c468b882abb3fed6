"""The tasks that run the handlers of a connection, one call after another.

Starting a task and opening a cancel scope take as long as the rest of a small call. So a task waits
for another call when its call has ended, and a connection keeps as many waiting tasks as it has
recently needed. Each call still has a context of its own (contextvars), and for as long as it lasts
a cancel scope of its own: a scope that was cancelled, or whose deadline has passed, ends its task.
"""

from __future__ import annotations

import contextvars
import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import trio

_WAITING = "waiting for a call"

if TYPE_CHECKING:  # Making a Protocol would delay the start of plugins.

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
            """End the call if `run` has not; None: its scope was cancelled, nothing else raised.

            Raises the cancellation in `exc`, if it has one.
            """

    class TaskOwner(Protocol):
        """The part of a connection that its tasks use."""

        @property
        def streams(self) -> Mapping[int, object]:
            """The calls that have not ended."""

        @property
        def can_poll(self) -> bool:
            """Whether `poll` may be called."""

        async def poll(self, is_done: Callable[[], bool]) -> None:
            """Poll for data, and process it, until `is_done()` or polling does not pay any more."""

        def start_soon(self, task: Callable[..., Awaitable[object]], *args: object) -> None:
            """Start a task that is cancelled with the connection."""


class HandlerTasks:
    """The tasks of one connection."""

    def __init__(self, owner: TaskOwner) -> None:
        self.owner = owner
        """The connection."""
        self.context: contextvars.Context | None = None
        """The context of the task that reads from the connection."""
        self._waiting: list[_HandlerTask] = []
        """Tasks that wait for a call; the last one has waited for the shortest time."""
        self._min_waiting = 0
        """Minimum number of waiting tasks since `end_unused`."""

    def start(self, call: HandledCall) -> None:
        """Run a call soon, in a copy of the current context."""
        if not self._waiting:
            if self.context is None:
                self.context = contextvars.copy_context()
            self.owner.start_soon(_HandlerTask(self, self._waiting).run, call)
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
    __slots__ = (
        "_has_deadline",
        "_is_parked",
        "_is_resumed",
        "_next_call",
        "_scope",
        "_task",
        "_tasks",
        "_waiting",
    )

    def __init__(self, tasks: HandlerTasks, waiting: list[_HandlerTask]) -> None:
        self._tasks = tasks
        self._waiting = waiting
        self._is_parked = False
        """Whether the task sleeps, instead of polling, while it waits."""
        self._is_resumed = False
        """Whether `assign` has ended the wait."""
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
                    call = None  # Nothing is kept of the last call.
                    await self._wait(task)
                    call = self._take_next_call()
        except BaseException as exc:
            if call is None:
                raise
            call.end_after(exc)
        else:
            if call is not None:
                call.end_after(None)

    async def _wait(self, task: trio.lowlevel.Task) -> None:
        """Wait until `assign` is called: polling, if the client is expected to make a call soon."""
        owner, context = self._tasks.owner, self._tasks.context
        assert context is not None
        task.name, task.context, self._is_resumed = _WAITING, context.copy(), False
        self._waiting.append(self)
        if not owner.streams and owner.can_poll:
            await self._poll(owner)
        if not self._is_resumed:
            self._is_parked = True
            await trio.lowlevel.wait_task_rescheduled(self._stop_waiting)

    async def _poll(self, owner: TaskOwner) -> None:
        """Read the next call from the connection in this task, which saves waking it."""
        if self._has_deadline:
            # It could pass between the arrival of the next call and this task's turn.
            self._scope.deadline, self._has_deadline = math.inf, False
        try:
            await owner.poll(self._should_end_poll)
        except trio.Cancelled:
            if not self._is_resumed:
                self._waiting.remove(self)
                raise
            # The call is cancelled at its first checkpoint, since the scope stays cancelled.

    def _should_end_poll(self) -> bool:
        return self._is_resumed or bool(self._tasks.owner.streams)

    def assign(self, call: HandledCall | None) -> None:
        """Resume the task with a call, or end it."""
        self._next_call, self._is_resumed = call, True
        if self._is_parked:
            self._is_parked = False
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
        self._is_parked = False
        return trio.lowlevel.Abort.SUCCEEDED


def _innermost_scope(task: trio.lowlevel.Task) -> object:
    """Return what identifies the innermost cancel scope of a task.

    Trio has no public name for it. In a trio without this one, tasks serve a single call.
    """
    return getattr(task, "_cancel_status", None) or object()
