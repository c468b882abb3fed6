"""What the end of a start by fork does to the template, which other plugins use as well."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import trio
import trio.testing

from meshtrio.supervisor.process.template.fork_start import ForkStart


class FakeTemplate:
    pid = 1
    is_killed = False

    def kill(self) -> None:
        self.is_killed = True


@contextmanager
def make_start(lock: trio.Lock) -> Iterator[tuple[ForkStart, Any]]:
    """Make a start by a template that never replies."""
    control, silent = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    template: Any = FakeTemplate()
    with control, silent:
        control.setblocking(False)
        yield (
            ForkStart(template=template, control=control, send_lock=lock, content={}, cgroup=None),
            template,
        )


async def test_a_start_that_is_cancelled_before_its_request_leaves_the_template() -> None:
    lock = trio.Lock()
    with make_start(lock) as (start, template):
        async with lock, trio.open_nursery() as nursery:
            nursery.start_soon(start.run)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert not template.is_killed


async def test_a_template_that_does_not_reply_to_a_cancelled_start_is_killed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with make_start(trio.Lock()) as (start, template):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(start.run)
            await trio.testing.wait_all_tasks_blocked()
            assert not template.is_killed
            began = trio.current_time()
            nursery.cancel_scope.cancel()
        assert template.is_killed
        assert trio.current_time() - began < 1  # of virtual time
