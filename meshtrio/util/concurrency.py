"""Nursery patterns, exception groups, waiting and aligned sleeps, on top of trio."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from contextvars import Context
from typing import Any, Generic, TypeVar

import trio

from meshtrio.util.errors import UsageError, unwrap_exception_group

T = TypeVar("T")


def collapse_group(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return what to raise instead of a nursery's group: its only error, if it has only one.

    A Cancelled in addition to an error is dropped: a scope that is still cancelled raises it again
    at the next checkpoint, while `except` clauses for the error do not match a group.
    """
    _, error = split_cancelled(group)
    return group if error is None else error


def split_cancelled(exc: BaseException) -> tuple[BaseException | None, BaseException | None]:
    """Split an exception into trio's Cancelled and other errors; None for a part that is empty.

    The second part is a single error instead of a group if there is only one.
    """
    if isinstance(exc, trio.Cancelled):
        return exc, None
    if not isinstance(exc, BaseExceptionGroup):
        return None, exc
    cancelled, errors = exc.split(trio.Cancelled)
    return cancelled, None if errors is None else unwrap_exception_group(errors)


def find_exit_exception(exc: BaseException) -> BaseException | None:
    """Find the first SystemExit or KeyboardInterrupt in an exception or its groups."""
    if isinstance(exc, SystemExit | KeyboardInterrupt):
        return exc
    if isinstance(exc, BaseExceptionGroup):
        return next(filter(None, map(find_exit_exception, exc.exceptions)), None)
    return None


async def sleep_until_tick(period: float, min_delay: float = 1e-6) -> None:
    """Sleep until the next multiple of `period` that is at least `min_delay` seconds away.

    This aligns the wake-ups of periodic tasks, since waking up costs an idle process more than the
    work it wakes up for. Compare systemd's AccuracySec.
    """
    await trio.sleep_until(math.ceil((trio.current_time() + min_delay) / period) * period)


def start_soon_without_context(
    nursery: trio.Nursery, task: Callable[..., Awaitable[Any]], *args: Any
) -> None:
    """Start a shared background task in an empty context.

    So it does not inherit the ContextVars (current call, trace) of the caller that started it.
    """
    Context().run(nursery.start_soon, task, *args)


@asynccontextmanager
async def open_collapsing_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery that raises a single error as it is, and not in an ExceptionGroup.

    This is for context managers that use a nursery internally, whose users would otherwise get
    their own exceptions in a group.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        exc = collapse_group(group)
        if exc is group:
            raise
        raise exc from exc.__cause__


@asynccontextmanager
async def run_during(task: Callable[..., Awaitable[Any]], *args: Any) -> AsyncIterator[None]:
    """Run a task during the block, at whose end it is cancelled. An error of it ends the block."""
    async with open_collapsing_nursery() as nursery:
        nursery.start_soon(task, *args)
        yield
        nursery.cancel_scope.cancel()


class PerRun(Generic[T]):
    """An object of each run of trio, which is made when it is first needed."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._var: trio.lowlevel.RunVar[T] = trio.lowlevel.RunVar("meshtrio")

    def get(self) -> T:
        """Return the object of the current run."""
        try:
            return self._var.get()
        except LookupError:
            self._var.set(self._make())
            return self._var.get()


class SingleWaiter:
    """The cheapest way for one task to wait for another one in trio.

    `wake` does nothing if no task waits, and is not remembered. So the waiting task must check its
    condition, and the other task change it, without a checkpoint before `wait` and `wake`.
    """

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None

    def wait(self) -> Awaitable[object]:
        """Return what waits for `wake`, to be awaited at once: `await waiter.wait()`.

        Not a coroutine function, so that the task does not wait in another frame.

        Raises:
            BusyResourceError: Another task is waiting.
        """
        if self._task is not None:
            raise trio.BusyResourceError("another task is using this side of the call already")
        self._task = trio.lowlevel.current_task()
        return trio.lowlevel.wait_task_rescheduled(self._abort)  # noqa: ASYNC105

    def _abort(self, raise_cancel: Any) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

    def wake(self) -> None:
        task = self._task
        if task is not None:
            self._task = None
            trio.lowlevel.reschedule(task)


@types.coroutine
def call_before_waiting(
    awaitable: Awaitable[T], callback: Callable[[], object]
) -> Generator[Any, Any, T]:
    """Wait for an awaitable, and call `callback` first if that does not return at once."""
    steps = awaitable.__await__()
    try:
        trap = steps.send(None)
        callback()
        while True:
            try:
                value = yield trap
            except BaseException as exc:
                trap = steps.throw(exc)
            else:
                trap = steps.send(value)
    except StopIteration as exc:
        return exc.value  # type: ignore[no-any-return]


class _StartStatus(trio.TaskStatus[Any]):
    def __init__(self) -> None:
        self.reported_event = trio.Event()
        self.value: Any = None

    def started(self, value: Any = None) -> None:
        self.value = value
        self.reported_event.set()


@asynccontextmanager
async def background_service(
    service: Callable[..., Awaitable[Any]], *args: Any
) -> AsyncIterator[Any]:
    """Run `service(*args, task_status=...)` during the block; yield the value it starts with.

    The service is shielded from cancellation of the block and is cancelled when the block has
    finished, so that the block can use it during its own clean-up. While it starts, cancellation
    cancels it, which `nursery.start` cannot do if it shields itself before that (trio#2895).
    """
    scope, start = trio.CancelScope(shield=True), _StartStatus()

    async def run() -> None:
        with scope:
            await service(*args, task_status=start)
        if not start.reported_event.is_set() and not scope.cancel_called:
            raise RuntimeError(f"{service} ended without calling task_status.started()")

    async with open_collapsing_nursery() as nursery:
        nursery.start_soon(run)
        try:
            await start.reported_event.wait()
            yield start.value
        finally:
            scope.cancel()


def require_trio(what: str) -> None:
    """Raise UsageError if `what` is called outside of trio, such as in an asyncio program.

    Otherwise the first await would fail with an obscure error.
    """
    if not trio.lowlevel.in_trio_run():
        where = "from asyncio" if is_in_asyncio() else "from outside of trio.run"
        raise UsageError(
            f"meshtrio runs on trio: {what} was called {where}. Run the program with "
            "trio.run(main), or this part of it in a thread of its own that calls trio.run"
        )


def is_in_asyncio() -> bool:
    """Whether this thread runs an asyncio event loop."""
    if (asyncio := sys.modules.get("asyncio")) is not None:
        with suppress(RuntimeError):
            return asyncio.get_running_loop() is not None
    return False
