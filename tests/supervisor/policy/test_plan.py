"""Planning starts and stops: a table of cases, and properties of any table."""

from __future__ import annotations

import math
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrio.supervisor.policy.plan import find_unready_dependencies, plan
from meshtrio.supervisor.policy.state import InstanceEvent, InstancePhase, next_phase

P = InstancePhase


@attrs.define(eq=False)
class Row:
    plugin: str
    phase: InstancePhase = P.WAITING
    is_running: bool = False
    is_starting: bool = False
    is_available: bool = False
    start_at: float = -math.inf
    batch: int = 0


def up(plugin: str, phase: InstancePhase = P.RUNNING, **values: Any) -> Row:
    return Row(plugin, phase, is_running=True, is_available=True, **values)


def starting(plugin: str) -> Row:
    return Row(plugin, P.RUNNING, is_running=True, is_starting=True)


def planned(rows: list[Row], edges: dict[str, set[str]] | None = None, now: float = 0.0) -> str:
    """ "+a -b @5" for starting a, stopping b and waking at 5."""
    found = plan(rows, {name: frozenset(to) for name, to in (edges or {}).items()}, now, 3)
    words = [f"+{row.plugin}" for row in found.start] + [f"-{row.plugin}" for row in found.stop]
    return " ".join([*words, *([f"@{found.wake_at:g}"] if found.wake_at != math.inf else [])])


AFTER = {"b": {"a"}}
CASES = {
    "all that may run are started": ([Row("a"), Row("b")], {}, "+a +b"),
    "what runs is left alone": ([up("a"), up("b")], {}, ""),
    "so many at once": ([Row(name) for name in "abcd"], {}, "+a +b +c"),
    "those that are starting have taken room": (
        [Row("a"), Row("b"), starting("x"), starting("y")],
        {},
        "+a",
    ),
    "who waited longest goes first": (
        [Row(n, start_at=d) for n, d in zip("abcd", (0, -1, -3, -2), strict=True)],
        {},
        "+c +d +b",
    ),
    "what is stopped is left alone": ([Row("a", P.STOPPED)], {}, ""),
    "what has ended is left alone": ([Row("a", P.EXITED), Row("b", P.FAILED)], {}, ""),
    "one in backoff": ([Row("a", P.BACKOFF, start_at=5)], {}, "@5"),
    "one whose last run drains": ([Row("a", P.BACKOFF, is_running=True)], {}, ""),
    "one that waits": ([Row("a"), Row("b")], AFTER, "+a"),
    "started is not ready": ([starting("a"), Row("b")], AFTER, ""),
    "one ready instance is enough": ([up("a"), Row("a"), Row("b")], AFTER, "+a +b"),
    "one that is about to stop is ready": ([up("a", P.STOP_QUEUED), Row("b")], AFTER, "+b -a"),
    "not before its time": ([Row("a", start_at=5), Row("b", start_at=3)], {}, "@3"),
    "a delay does not hold others up": ([Row("a", start_at=5), Row("b")], {}, "+b @5"),
    "one that waits for others wakes nobody": ([Row("b", start_at=5)], AFTER, ""),
    "one that is idle accepts connections": (
        [Row("a", P.IDLE, is_available=True), Row("b")],
        AFTER,
        "+b",
    ),
    "one that is idle has no socket yet": ([Row("a", P.IDLE), Row("b")], AFTER, ""),
    "idle instances stop at once": ([up("a", P.IDLING), up("b")], AFTER, ""),
    "stopped": ([up("a", P.STOP_QUEUED), up("b")], {}, "-a"),
    "restarted": ([up("a", P.RESTART_QUEUED)], {}, "-a"),
    "replaced": ([up("a", P.REPLACE_QUEUED), up("b", P.REPLACING)], {}, ""),
    "stopped once": ([up("a", P.STOPPING), up("b", P.RESTARTING)], {}, ""),
    "in reverse": ([up("a", P.STOP_QUEUED), up("b", P.STOP_QUEUED)], AFTER, "-b"),
    "in reverse while one is stopping": (
        [up("a", P.STOP_QUEUED), up("b", P.STOPPING)],
        AFTER,
        "",
    ),
    "in reverse while the last run of one drains": (
        [up("a", P.STOP_QUEUED), Row("b", P.STOPPED, is_running=True)],
        AFTER,
        "",
    ),
    "not held up by those that stay": ([up("a", P.STOP_QUEUED), up("b")], AFTER, "-a"),
    "a batch stops before it starts": (
        [up("a", P.RESTART_QUEUED, batch=1), Row("b", batch=1), Row("c", batch=2)],
        {},
        "+c -a",
    ),
    "a batch waits for a run that drains": (
        [Row("a", P.BACKOFF, is_running=True, batch=1), Row("b", batch=1)],
        {},
        "",
    ),
    "a batch waits for one that is about to be idle": (
        [up("a", P.IDLING, batch=1), Row("b", batch=1)],
        {},
        "",
    ),
    "a batch does not wait for one that is idle": (
        [Row("a", P.IDLE, batch=1), Row("b", batch=1)],
        {},
        "+b",
    ),
    "a batch does not wait for one that was stopped": (
        [up("a", P.STOPPING, batch=1), Row("b", batch=1)],
        {},
        "+b",
    ),
}


@pytest.mark.parametrize(("rows", "edges", "expected"), CASES.values(), ids=CASES)
def test_plans(rows: list[Row], edges: dict[str, set[str]], expected: str) -> None:
    assert planned(rows, edges) == expected


def is_down(phase: InstancePhase) -> bool:
    return phase.is_waiting or phase.is_final or phase is P.IDLE


@st.composite
def _tables(draw: st.DrawFn) -> tuple[list[Row], dict[str, frozenset[str]]]:
    names = [chr(ord("a") + number) for number in range(draw(st.integers(1, 7)))]
    # A plugin waits only for earlier letters, so that there is no circle.
    edges = {n: frozenset(draw(st.sets(st.sampled_from(names[: i or 1])))) - {n}
             for i, n in enumerate(names)}  # fmt: skip
    rows = []
    for name in names:
        for _ in range(draw(st.integers(1, 2))):
            phase = draw(st.sampled_from(InstancePhase))
            running = not is_down(phase)
            available = running or phase is P.IDLE
            batch = draw(st.integers(0, 2))
            rows.append(Row(name, phase, is_running=running, is_available=available, batch=batch))
    return rows, edges


@given(_tables(), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_every_request_is_carried_out_in_order(drawn, random) -> None:  # type: ignore[no-untyped-def]
    """Whatever is started and stopped first among what the plan allows."""
    rows, edges = drawn
    for _ in range(20 * len(rows)):
        found = plan(rows, edges, 0.0, 3)
        assert sum(row.is_starting for row in rows) + len(found.start) <= 3
        ready = {row.plugin for row in rows if row.is_available}
        assert all(edges[row.plugin] <= ready for row in found.start)
        leaving = {row.plugin for row in rows if row.phase.is_leaving}
        assert not any(row.plugin in edges[name] for row in found.stop for name in leaving)
        stopping = [row for row in rows if row.phase.is_leaving and not row.phase.is_stop_queued]
        todo = [*found.start, *found.stop, *stopping, *(row for row in rows if row.is_starting)]
        if not todo:
            break
        row = random.choice(todo)
        if row in found.start:
            emptying = {other.batch for other in rows if other.phase.is_restarting}
            assert not row.batch or row.batch not in emptying
            row.phase = next_phase(row.phase, InstanceEvent.LAUNCH)
            row.is_running = row.is_starting = True
            row.batch = 0
        elif row in found.stop:
            row.phase = next_phase(row.phase, InstanceEvent.TERMINATE)
        elif row.is_starting:
            row.is_starting, row.is_available = False, True
        else:
            row.phase = next_phase(row.phase, InstanceEvent.ALL_EXITED)
            row.is_running, row.is_available = False, row.phase is P.IDLE
    served = {row.plugin for row in rows if row.is_available}
    for row in rows:
        assert not row.phase.is_leaving
        assert row.is_running is not is_down(row.phase)
        assert not (row.phase.is_waiting and edges[row.plugin] <= served)


CHAIN = {"web": frozenset({"api", "auth"}), "api": frozenset({"db"}), "auth": frozenset({"db"})}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([up("api"), up("auth"), up("db")], []),
        ([up("api"), Row("auth"), up("db")], [["auth"]]),
        ([Row("api"), up("auth"), starting("db"), Row("db")], [["api"], ["db", "db"]]),
        ([Row("api"), up("api"), Row("auth"), up("db"), Row("db")], [["auth"]]),
        ([up("api"), up("auth"), Row("db")], []),
    ],
)
def test_unready_dependencies(rows: list[Row], expected: list[list[str]]) -> None:
    web = Row("web")
    found = find_unready_dependencies(web, [web, *rows], CHAIN)
    assert sorted([row.plugin for row in of_plugin] for of_plugin in found) == expected
    web.is_running = True
    assert find_unready_dependencies(web, [web, *rows], CHAIN) == []
