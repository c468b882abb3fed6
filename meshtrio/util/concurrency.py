"""Shapes of nursery, and of waiting, that trio leaves to its users."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import Context
from typing import Any

import trio

from meshtrio.errors import UsageError, unwrap_exception_group


def collapse_group(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What to raise in place of a nursery's group: its one error, if there is one.

    Cancelled beside an error is dropped: a scope that is still cancelled says so again at the next
    checkpoint, while an `except` for the error would not see it in a group.
    """
    _, errors = group.split(trio.Cancelled)
    return group if errors is None else unwrap_exception_group(errors)


def split_cancelled(
    exc: BaseException,
) -> tuple[BaseException | None, BaseException | None]:
    """Part trio's cancellation from other errors: the two that an exception holds, None for none.

    The second is a single error if there is only one.
    """
    if isinstance(exc, trio.Cancelled):
        return exc, None
    if not isinstance(exc, BaseExceptionGroup):
        return None, exc
    cancelled, errors = exc.split(trio.Cancelled)
    return cancelled, None if errors is None else unwrap_exception_group(errors)


def find_exit_exception(exc: BaseException) -> BaseException | None:
    """The first SystemExit or KeyboardInterrupt in an exception or its groups, None for none."""
    if isinstance(exc, SystemExit | KeyboardInterrupt):
        return exc
    if isinstance(exc, BaseExceptionGroup):
        return next(filter(None, map(find_exit_exception, exc.exceptions)), None)
    return None


async def sleep_until_tick(period: float, min_delay: float = 1e-6) -> None:
    """Sleep until the next whole multiple of `period` that is at least `after` seconds away.

    For what is done now and then: waking up costs an idle process more than what it wakes for, so
    all of that is done in the same moments, as systemd's AccuracySec has it.
    """
    await trio.sleep_until(math.ceil((trio.current_time() + min_delay) / period) * period)


def start_soon_without_context(
    nursery: trio.Nursery, task: Callable[..., Awaitable[Any]], *args: Any
) -> None:
    """Start a task that is there for many: it has no context variables of who needed it first,
    whose call and whose trace are none of its business."""
    Context().run(nursery.start_soon, task, *args)


@asynccontextmanager
async def open_collapsing_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery for helpers of the block: an error of the block leaves it as it was raised.

    Without this, an `async with` that uses a nursery inside would show its user's own exceptions
    in an ExceptionGroup.
    """
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        exc = collapse_group(group)
        if exc is group:
            raise
        raise exc from exc.__cause__


class _StartStatus(trio.TaskStatus[Any]):
    """Where a service reports its start; see `running`."""

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
    """Run `service(*args, task_status=…)` during the block, and until the block is quite done.

    It is shielded from the cancellation that ends the block and is cancelled after it, so that
    what the block does on its way out still finds it there. Yields what it gave as started.
    Cancelled while the service starts, it cancels the service: `nursery.start` could not, since it
    loses hold of a task that shields itself before it has started (trio#2895).
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
    """Raise UsageError if `what` is called from outside of trio, as from an asyncio program.

    Without this, what it awaits fails with "yielded an unexpected value", or the like.
    """
    if not trio.lowlevel.in_trio_run():
        where = "from asyncio" if is_in_asyncio() else "from outside of trio.run"
        raise UsageError(
            f"meshtrio runs on trio: {what} was called {where}. Run the program with "
            "trio.run(main), or this part of it in a thread of its own that calls trio.run"
        )


def is_in_asyncio() -> bool:
    """Whether this thread is in a running event loop of asyncio's."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


@contextmanager
def stop_signals(*, ignore_afterwards: bool = False) -> Iterator[AsyncIterator[int]]:
    """Gives the signals that a program is told to stop by, during the block: SIGTERM, SIGINT, and
    SIGHUP, which a terminal sends that is closed, unless it is ignored, as below nohup.

    The first of them is for the block to take. Those that follow do nothing: told so again, by a
    second Ctrl-C or by who signals all of a cgroup, a program would be killed which is about to end
    in good order. `for_good`: they do nothing after the block either, since all that is left is to
    exit. Must be entered in the main thread.
    """
    numbers = [signal.SIGTERM, signal.SIGINT]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    # Until somebody takes them they wait; what nobody has taken in the end is delivered again.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        with trio.open_signal_receiver(*numbers) as signals:
            # The parent may have blocked them, which is inherited.
            signal.pthread_sigmask(signal.SIG_SETMASK, mask - set(numbers))
            yield signals
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if not ignore_afterwards:
            for number, handler in before.items():
                if handler is not None:  # as of one that is not Python's
                    signal.signal(number, handler)
