"""Reports of a channel to its mesh that a call waits for a plugin, in virtual time."""

from __future__ import annotations

import purerpc
import trio
from trio.testing import MockClock

from meshtrio.client.demand_reporter import DemandReporter


class Sent:
    """Counts reports; the first ones fail."""

    def __init__(self, *errors: purerpc.RpcFailedError, duration: float = 0.0) -> None:
        self.count = self.failures = 0
        self._errors = list(errors)
        self._duration = duration

    def on_failure(self) -> None:
        self.failures += 1

    async def __call__(self) -> None:
        self.count += 1
        await trio.sleep(self._duration)
        if self._errors:
            raise self._errors.pop(0)


async def test_a_report_before_the_start_is_sent(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    sent = Sent()
    reporter = DemandReporter(sent)
    reporter.report()
    reporter.report()
    reporter.start(nursery, sent.on_failure)
    await trio.sleep(5)
    assert sent.count == 1


async def test_a_report_that_fails_is_sent_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    sent = Sent(*(purerpc.UnavailableError("no mesh") for _ in range(20)))
    reporter = DemandReporter(sent)
    reporter.start(nursery, sent.on_failure)
    reporter.report()
    await trio.sleep(1)
    assert 1 < sent.count < 20
    await trio.sleep(200)
    assert (sent.count, sent.failures) == (21, 20)


async def test_a_service_that_is_gone_is_not_asked_for_again(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    sent = Sent(purerpc.NotFoundError("unknown service"))
    reporter = DemandReporter(sent)
    reporter.start(nursery, sent.on_failure)
    reporter.report()
    await trio.sleep(100)
    assert sent.count == 1
    reporter.report()
    await trio.sleep(1)
    assert sent.count == 2


async def test_one_is_sent_at_a_time_and_none_is_lost(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    sent = Sent(duration=1.0)
    reporter = DemandReporter(sent)
    reporter.start(nursery, sent.on_failure)
    for _ in range(5):
        reporter.report()
        await trio.sleep(0.1)
    assert sent.count == 1
    await trio.sleep(5)
    assert sent.count == 2
