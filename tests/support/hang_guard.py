"""A test that hangs fails, and the run goes on.

pytest-timeout decides how long each test may take: `timeout` in pyproject.toml, or
`@pytest.mark.timeout(seconds)`. What happens then is decided here, in steps that are
a grace period apart:

1. The stacks of all threads and trio's tasks are dumped, and the nurseries of a trio run in the
   main thread are cancelled, so that it unwinds as usual and leaves nothing for the next test.
2. Shields are lifted, and trio is interrupted as by Ctrl-C, which ends a run without nurseries.
3. The test's failure is raised from the signal handler, wherever the main thread is. Without a trio
   run, this is the first step.
4. faulthandler ends the process. pytest-xdist goes on with a new worker.

A deadline around each test would be simpler, but each of its calls would then send that deadline.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import signal
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest
import trio

from meshtrio.util.signals import format_task_tree

_STDERR = 2


class HangGuard:
    """A pytest plugin that ends tests when pytest-timeout's time is over. One for a process.

    Args:
        grace: Seconds that a test has to unwind after each step.
    """

    def __init__(self, grace: float = 20.0) -> None:
        self._grace = grace
        self._limit = 0.0
        self._alarms = 0

    @pytest.hookimpl
    def pytest_timeout_set_timer(self, item: pytest.Item, settings: Any) -> bool:
        self._limit, self._alarms = settings.timeout, 0
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, settings.timeout, self._grace)
        faulthandler.dump_traceback_later(settings.timeout + 4 * self._grace, exit=True)
        return True

    @pytest.hookimpl
    def pytest_timeout_cancel_timer(self, item: pytest.Item) -> bool:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        return True

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        try:
            return (yield)
        finally:
            self._fail_if_expired()

    @contextmanager
    def limit(self, seconds: float) -> Iterator[None]:
        """Limit a part of a test to fewer seconds; the test's own time stands still meanwhile."""
        left = signal.getitimer(signal.ITIMER_REAL)
        if not left[0]:  # In a debugger, say.
            yield
            return
        limit, self._limit = self._limit, seconds
        signal.setitimer(signal.ITIMER_REAL, seconds, self._grace)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, *left)
            self._fail_if_expired()
            self._limit = limit

    def _fail_if_expired(self) -> None:
        if self._alarms:
            pytest.fail(f"still running after {self._limit:g} s", pytrace=False)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        self._alarms += 1
        token = _current_trio_token()
        if self._alarms == 1:
            faulthandler.dump_traceback(_STDERR, all_threads=True)
            if token is not None:
                _dump_trio_tasks()
                token.run_sync_soon(_cancel_nurseries)
                return
        elif self._alarms == 2 and token is not None:
            token.run_sync_soon(_lift_shields)
            signal.raise_signal(signal.SIGINT)
            return
        self._fail_if_expired()


def _current_trio_token() -> trio.lowlevel.TrioToken | None:
    try:
        return trio.lowlevel.current_trio_token()
    except RuntimeError:
        return None


def _dump_trio_tasks() -> None:
    root = trio.lowlevel.current_root_task()
    if root is not None:
        text = "\n".join(["trio's tasks:", *format_task_tree(root), ""])
        os.write(_STDERR, text.encode(errors="replace"))


def _cancel_nurseries() -> None:
    """Cancel the nurseries of the run's main task."""
    root = trio.lowlevel.current_root_task()
    assert root is not None
    for outer in root.child_nurseries:
        for task in outer.child_tasks:
            for nursery in task.child_nurseries:
                nursery.cancel_scope.cancel()


def _lift_shields() -> None:
    for found in gc.get_objects():
        if isinstance(found, trio.CancelScope) and found.shield:
            found.shield = False


guard = HangGuard()
