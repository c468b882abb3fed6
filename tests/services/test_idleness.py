"""When a plugin reports that it has no calls, in virtual time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from meshtrio.grpc.status import StatusCode
from meshtrio.rpc.stats import LoadRecorder
from meshtrio.services.idleness import report_idleness


@pytest.mark.parametrize("idle_timeout", [0.08, 8.0, 300.0])
async def test_it_is_reported_again_and_again(
    nursery: trio.Nursery, autojump_clock: MockClock, idle_timeout: float
) -> None:
    reports: list[float] = []
    began = trio.current_time()
    nursery.start_soon(
        report_idleness,
        LoadRecorder(),
        idle_timeout,
        lambda: reports.append(trio.current_time() - began),
    )
    await trio.sleep(3.5 * idle_timeout)
    assert 2 <= len(reports) <= 3
    assert all(idle_timeout <= time - at * idle_timeout for at, time in enumerate(reports))
    assert reports[0] <= 1.2 * idle_timeout


async def test_calls_and_streams_are_waited_for(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    reports: list[float] = []
    began, recorder = trio.current_time(), LoadRecorder()
    nursery.start_soon(
        report_idleness, recorder, 8.0, lambda: reports.append(trio.current_time() - began)
    )
    for _ in range(10):
        await trio.sleep(5)
        recorder.end_call(recorder.start_call("/a.B/C"), "/a.B/C", None)
    assert reports == []
    started = recorder.start_call("/a.B/C")
    await trio.sleep(100)
    assert reports == []
    recorder.end_call(started, "/a.B/C", (StatusCode.INTERNAL, ""))
    await trio.sleep(10)
    (report,) = reports
    assert 158 <= report <= 160
