"""What the tests take for a long turn of the loop."""

from __future__ import annotations

import gc

from tests.support.loop_latency import measure_cpu_time, measure_loop_latency


async def test_collecting_what_was_there_before_is_no_long_turn() -> None:
    earlier: list[list[int]] = [[number] for number in range(500_000)]
    async with measure_loop_latency() as turns:
        gc.collect()
    assert turns.max_cpu_time < measure_cpu_time(gc.collect) / 3
    assert len(earlier) == 500_000


async def test_a_long_turn_is_seen() -> None:
    async with measure_loop_latency() as turns:
        spent = measure_cpu_time(lambda: sum(range(1_000_000)))
    assert turns.max_cpu_time >= spent
