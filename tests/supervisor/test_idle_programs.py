"""Programs that do not report that they are idle are so if there are no connections to them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import trio

from meshtrio.supervisor.policy.state import InstancePhase
from meshtrio.supervisor.reconciliation import recycler
from meshtrio.supervisor.reconciliation.demand_controller import take_idle_report
from meshtrio.supervisor.reconciliation.recycler import check_connections

IDLE_TIMEOUT = 10.0


class Run:
    """What is looked at of a process run, without the process."""

    is_ready = True
    ready_at = -100.0
    config = SimpleNamespace(idle_timeout=IDLE_TIMEOUT)
    spec = SimpleNamespace(address="unix:/p.sock")

    def __init__(self, last_connected_ago: float) -> None:
        self.last_connected_at = trio.current_time() - last_connected_ago
        self.ready_at = self.last_connected_at - 100
        self.checks_begun = self.checks_ended = 3
        self.idle_reports = 0

    def report_idle(self) -> None:
        self.idle_reports += 1


async def look(monkeypatch: pytest.MonkeyPatch, run: Run, count: int | None, **during: int) -> None:
    """Count the connections once; `during` is what the run has changed to meanwhile."""

    def count_connections(address: str) -> int | None:
        assert address == "unix:/p.sock"
        vars(run).update(during)
        return count

    monkeypatch.setattr(recycler, "count_connections", count_connections)
    instance: Any = SimpleNamespace(name="p/0", active_run=run)
    await check_connections([instance])


@pytest.mark.parametrize(
    ("connected_ago", "count", "is_idle"),
    [(11.0, 0, True), (9.0, 0, False), (11.0, 1, False), (11.0, None, False)],
)
async def test_it_is_idle_after_the_time_without_connections(
    monkeypatch: pytest.MonkeyPatch, connected_ago: float, count: int | None, is_idle: bool
) -> None:
    run = Run(connected_ago)
    await look(monkeypatch, run, count)
    assert run.idle_reports == is_idle
    assert (trio.current_time() - run.last_connected_at < 5) == (count != 0)


@pytest.mark.parametrize(("begun", "ended"), [(3, 3), (4, 3), (4, 4)])
async def test_a_health_check_is_no_connection_of_a_client(
    monkeypatch: pytest.MonkeyPatch, begun: int, ended: int
) -> None:
    """The mesh counts at the times at which it checks, in a thread: one may begin, or end."""
    run = Run(11.0)
    was_checking = begun == ended == 3
    run.checks_begun += was_checking
    await look(
        monkeypatch, run, 1, checks_begun=begun + was_checking, checks_ended=ended + was_checking
    )
    assert run.idle_reports == 0
    assert trio.current_time() - run.last_connected_at > 5
    await look(monkeypatch, run, 2, checks_begun=9)
    assert trio.current_time() - run.last_connected_at < 5


@pytest.mark.parametrize(
    ("ready_ago", "supervised_ago", "is_stopped"),
    [(11.0, 12.0, True), (9.0, 12.0, False), (11.0, 9.0, False)],
)
async def test_a_report_counts_after_the_time_in_which_it_was_ready_and_supervised(
    ready_ago: float, supervised_ago: float, is_stopped: bool
) -> None:
    """One that was made during an upgrade may be out of date, and is made again."""
    now = trio.current_time()
    run = SimpleNamespace(
        is_idle=True,
        is_ready=True,
        is_kill_requested=False,
        ready_at=now - ready_ago,
        supervised_since=now - supervised_ago,
    )
    instance: Any = SimpleNamespace(active_run=run, config=Run.config, phase=InstancePhase.RUNNING)
    assert take_idle_report(instance) == is_stopped
    assert not run.is_idle
