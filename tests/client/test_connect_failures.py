"""Reports of a channel to its mesh that endpoints cannot be connected to, in virtual time."""

from __future__ import annotations

from itertools import pairwise

import trio
from trio.testing import MockClock

from meshtrio.client.connect_failures import ConnectFailureReporter


class Sent:
    """Reports that were sent, and when."""

    def __init__(self, duration: float = 0.0) -> None:
        self.reports: list[tuple[str, float]] = []
        self._duration = duration
        self._start = trio.current_time()

    async def __call__(self, endpoint_id: str) -> None:
        self.reports.append((endpoint_id, round(trio.current_time() - self._start, 3)))
        await trio.sleep(self._duration)


async def test_a_failure_before_the_start_is_reported(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    sent = Sent()
    reporter = ConnectFailureReporter(sent)
    reporter.report("a")
    reporter.report("b")
    reporter.start(nursery)
    await trio.sleep(5)
    assert sent.reports == [("b", 0)]


async def test_reports_are_limited_in_rate(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    sent = Sent()
    reporter = ConnectFailureReporter(sent)
    reporter.start(nursery)
    for number in range(50):
        reporter.report(str(number))
        await trio.sleep(0.1)
    times = [time for _, time in sent.reports]
    assert times[0] == 0
    assert len(times) <= 5
    assert all(later - earlier > 0.99 for earlier, later in pairwise(times))


async def test_a_mesh_that_does_not_answer_is_not_waited_for(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    sent = Sent(duration=1000)
    reporter = ConnectFailureReporter(sent)
    reporter.start(nursery)
    reporter.report("a")
    await trio.sleep(5.5)
    reporter.report("b")
    await trio.sleep(1)
    reporter.report("c")
    await trio.sleep(1)
    assert sent.reports == [("a", 0), ("c", 6.5)]
