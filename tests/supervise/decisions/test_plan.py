"""Planning: what may start and stop, as tables and as laws over any table."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrio.supervisor.policy.plan import DesiredState, plan


@attrs.define(eq=False)
class Row:
    plugin: str
    desired_state: DesiredState = DesiredState.RUNNING
    is_running: bool = False
    is_starting: bool = False
    is_ready: bool = False
    is_stopping: bool = False
    start_at: float = -math.inf
    batch: int = 0


def up(plugin: str, goal: DesiredState = DesiredState.RUNNING, **values: object) -> Row:
    return Row(plugin, goal, is_running=True, is_ready=True, **values)  # type: ignore[arg-type]


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
        [Row("a"), Row("b"), *[Row(name, is_running=True, is_starting=True) for name in "xy"]],
        {},
        "+a",
    ),
    "who waited longest goes first": (
        [Row(n, start_at=d) for n, d in zip("abcd", (0, -1, -3, -2), strict=True)],
        {},
        "+c +d +b",
    ),
    "what rests is left alone": ([Row("a", DesiredState.STOPPED)], {}, ""),
    "one that waits": ([Row("a"), Row("b")], AFTER, "+a"),
    "started is not ready": ([Row("a", is_running=True), Row("b")], AFTER, ""),
    "one ready instance is enough": ([up("a"), Row("a"), Row("b")], AFTER, "+a +b"),
    "not before its time": ([Row("a", start_at=5), Row("b", start_at=3)], {}, "@3"),
    "a delay does not hold others up": ([Row("a", start_at=5), Row("b")], {}, "+b @5"),
    "one that waits for others wakes nobody": ([Row("b", start_at=5)], AFTER, ""),
    "stopped": ([up("a", DesiredState.STOPPED), up("b")], {}, "-a"),
    "recycled": ([up("a", DesiredState.RESTARTED)], {}, "-a"),
    "stopped once": ([up("a", DesiredState.STOPPED, is_stopping=True)], {}, ""),
    "in reverse": ([up("a", DesiredState.STOPPED), up("b", DesiredState.STOPPED)], AFTER, "-b"),
    "in reverse while one is stopping": (
        [up("a", DesiredState.STOPPED), up("b", DesiredState.STOPPED, is_stopping=True)],
        AFTER,
        "",
    ),
    "not held up by those that stay": ([up("a", DesiredState.STOPPED), up("b")], AFTER, "-a"),
    "a batch stops before it starts": (
        [up("a", DesiredState.RESTARTED, batch=1), Row("b", batch=1), Row("c", batch=2)],
        {},
        "+c -a",
    ),
}


@pytest.mark.parametrize(("rows", "edges", "expected"), CASES.values(), ids=CASES)
def test_plans(rows: list[Row], edges: dict[str, set[str]], expected: str) -> None:
    assert planned(rows, edges) == expected


@st.composite
def _tables(draw: st.DrawFn) -> tuple[list[Row], dict[str, frozenset[str]]]:
    names = [chr(ord("a") + number) for number in range(draw(st.integers(1, 7)))]
    # A plugin waits only for earlier letters, so that there is no circle.
    edges = {n: frozenset(draw(st.sets(st.sampled_from(names[: i or 1])))) - {n}
             for i, n in enumerate(names)}  # fmt: skip
    rows = []
    for name in names:
        for _ in range(draw(st.integers(1, 2))):
            running = draw(st.booleans())
            goal = draw(st.sampled_from(DesiredState))
            if goal is DesiredState.RESTARTED and not running:
                goal = DesiredState.RUNNING
            batch = draw(st.integers(0, 2))
            rows.append(Row(name, goal, is_running=running, is_ready=running, batch=batch))
    return rows, edges


@given(_tables(), st.randoms(use_true_random=False))
@settings(max_examples=300)
def test_every_goal_is_reached_in_order(drawn, random) -> None:  # type: ignore[no-untyped-def]
    """Whatever is started and stopped first among what the plan allows."""
    rows, edges = drawn
    for _ in range(20 * len(rows)):
        found = plan(rows, edges, 0.0, 3)
        assert sum(row.is_starting for row in rows) + len(found.start) <= 3
        ready = {row.plugin for row in rows if row.is_ready}
        assert all(edges[row.plugin] <= ready for row in found.start)
        leaving = {
            r.plugin for r in rows if r.is_running and r.desired_state is not DesiredState.RUNNING
        }
        assert not any(row.plugin in edges[name] for row in found.stop for name in leaving)
        todo = [*found.start, *found.stop, *(row for row in rows if row.is_starting)]
        if not todo:
            break
        row = random.choice(todo)
        if row in found.start:
            emptying = {r.batch for r in rows if r.desired_state is DesiredState.RESTARTED}
            assert not row.batch or row.batch not in emptying
            row.is_running = row.is_starting = True
            row.batch = 0
        elif row.is_starting:
            row.is_starting, row.is_ready = False, True
        else:
            row.is_running = row.is_ready = False
            row.desired_state = (
                DesiredState.RUNNING
                if row.desired_state is DesiredState.RESTARTED
                else row.desired_state
            )
    served = {row.plugin for row in rows if row.is_ready}
    for row in rows:
        wanted = row.desired_state is DesiredState.RUNNING and (
            row.is_running or edges[row.plugin] <= served
        )
        assert row.is_running is wanted
        assert row.desired_state is not DesiredState.RESTARTED
