"""Threads: an abandoned one costs the next run of trio nothing."""

from __future__ import annotations

import importlib
import pkgutil
import threading

import trio

import meshtrio
from meshtrio.util.worker_threads import GilYielder, run_computation

PER_RUN = (
    trio.CapacityLimiter,
    trio.Condition,
    trio.Event,
    trio.Lock,
    trio.Semaphore,
    trio.StrictFIFOLock,
    trio.lowlevel.ParkingLot,
)
"""Types of trio whose objects belong to one run."""


def test_threads_that_outlive_their_run_take_no_place_in_the_next() -> None:
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def hang(_: GilYielder) -> None:
        begun.release()
        go_on.wait()

    async def abandon() -> None:
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(run_computation, hang)
                for _ in range(2):
                    await trio.to_thread.run_sync(begun.acquire, abandon_on_cancel=True)
                nursery.cancel_scope.cancel()

    async def go() -> int:
        with trio.fail_after(60):
            return await run_computation(lambda _: 4711)

    for _ in range(3):
        trio.run(abandon)
    try:
        assert trio.run(go) == 4711
    finally:
        go_on.set()
    assert trio.run(go) == 4711


def test_no_module_has_what_tasks_of_several_runs_would_wait_for() -> None:
    found = []
    for module in pkgutil.walk_packages(meshtrio.__path__, "meshtrio."):
        if "__main__" not in module.name:
            names = vars(importlib.import_module(module.name))
            found += [f"{module.name}.{n}" for n, value in names.items() if type(value) in PER_RUN]
    assert not found
