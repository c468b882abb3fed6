"""When the start of a mesh is over."""

from __future__ import annotations

import attrs
import pytest

from meshtrio.supervisor.policy.state import InstancePhase as P
from meshtrio.systemd.readiness import find_unsettled


@attrs.define
class Entry:
    plugin: str
    phase: P = P.RUNNING
    is_available: bool = False
    failed_starts: int = 0
    number: int = 0

    @property
    def key(self) -> tuple[str, int]:
        return self.plugin, self.number

    @property
    def is_running(self) -> bool:
        return self.phase is P.RUNNING


NEEDS = {"web": frozenset({"db"}), "ui": frozenset({"web"}), "db": frozenset[str]()}
READY = Entry("db", is_available=True)


@pytest.mark.parametrize(
    ("entries", "unsettled"),
    [
        ([], []),
        ([READY], []),
        ([Entry("db")], ["db"]),
        ([Entry("db", P.WAITING)], ["db"]),
        ([Entry("db", P.BACKOFF, failed_starts=2)], ["db"]),
        # It is started again for ever, and nothing waits for it any more.
        ([Entry("db", P.BACKOFF, failed_starts=3)], []),
        ([Entry("db", P.RUNNING, failed_starts=3)], []),
        ([Entry("db", P.FAILED)], []),
        ([Entry("db", P.EXITED)], []),
        ([Entry("db", P.STOPPED)], []),
        # A plugin that needs one that has given up is never started, nor what needs it in turn.
        ([Entry("db", P.FAILED), Entry("web", P.WAITING), Entry("ui", P.WAITING)], []),
        ([Entry("db"), Entry("web", P.WAITING), Entry("ui", P.WAITING)], ["db", "web", "ui"]),
        ([READY, Entry("web", P.WAITING), Entry("ui", P.WAITING)], ["web", "ui"]),
        # One instance is enough for what needs it.
        ([Entry("db", P.FAILED), Entry("db", number=1), Entry("web", P.WAITING)], ["db", "web"]),
        ([Entry("db", P.FAILED), attrs.evolve(READY, number=1), Entry("web", P.WAITING)], ["web"]),
        # It is started when it is needed; then it is not waited for.
        ([Entry("db", P.IDLE, is_available=True)], []),
        ([Entry("db", P.IDLE, is_available=True), Entry("web", P.WAITING)], ["web"]),
        # Its socket is about to be bound.
        ([Entry("db", P.IDLE)], ["db"]),
        # It runs, although what it needs has failed since.
        ([Entry("db", P.FAILED), Entry("web")], ["web"]),
    ],
)
def test_what_is_waited_for(entries: list[Entry], unsettled: list[str]) -> None:
    assert [each.plugin for each in find_unsettled(entries, NEEDS, ())] == unsettled


def test_an_instance_that_was_ready_once_is_not_waited_for_again() -> None:
    entries = [Entry("db", P.BACKOFF), Entry("web", P.BACKOFF)]
    assert find_unsettled(entries, NEEDS, {("db", 0), ("web", 0)}) == []


def test_a_plugin_that_waits_for_a_failed_task_is_not_waited_for() -> None:
    entries = [Entry("db", P.WAITING), Entry("web", P.WAITING), Entry("other", P.WAITING)]
    found = find_unsettled(entries, NEEDS, (), lambda plugin: plugin == "db")
    assert [each.plugin for each in found] == ["other"]
