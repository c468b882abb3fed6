"""What the tests take for a long turn of the loop."""

from __future__ import annotations

import gc

from tests.turns import cpu_time_of, watching_turns


async def test_collecting_what_was_there_before_is_no_long_turn() -> None:
    earlier: list[list[int]] = [[number] for number in range(500_000)]
    async with watching_turns() as turns:
        gc.collect()
    assert turns.longest < cpu_time_of(gc.collect) / 3
    assert len(earlier) == 500_000


async def test_a_long_turn_is_seen() -> None:
    async with watching_turns() as turns:
        spent = cpu_time_of(lambda: sum(range(1_000_000)))
    assert turns.longest >= spent
