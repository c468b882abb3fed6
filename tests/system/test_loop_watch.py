"""The soak's watch on an event loop counts what the loop does, not what the machine does to it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import trio

from tests import ROOT
from tests.soak.loop_monitor import LoopMonitor, StackSampler, read_standstills

_BURNERS = 12


async def block(seconds: float) -> None:
    await trio.sleep(0.01)
    time.sleep(seconds)  # noqa: ASYNC251 - what is to be found out
    await trio.sleep(0.01)


async def compute(seconds: float) -> None:
    await trio.sleep(0.01)
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    await trio.sleep(0.01)


def test_a_blocking_call_is_a_standstill_with_its_stack(tmp_path: Path) -> None:
    path = tmp_path / "standstills"
    command = [sys.executable, "-m", "tests.system.test_loop_watch", str(path)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        sampler = StackSampler(path)
        while process.poll() is None:
            sampler.request_stack()
            time.sleep(0.01)
    assert process.returncode == 0
    (found,) = read_standstills(path)
    assert float(str(found["seconds"])) > 0.4
    assert "in block" in str(found["stack"])


def test_a_machine_without_a_processor_for_the_loop_is_none(tmp_path: Path) -> None:
    path = tmp_path / "standstills"
    burner = [sys.executable, "-I", "-S", "-c", "while True: pass"]
    burners = [subprocess.Popen(burner) for _ in range(_BURNERS)]
    try:
        began = time.monotonic()
        trio.run(compute, 0.06, instruments=[LoopMonitor(path)])
        assert time.monotonic() - began > 0.06
    finally:
        for each in burners:
            each.kill()
            each.wait()
    assert read_standstills(path) == []


if __name__ == "__main__":
    trio.run(block, 0.5, instruments=[LoopMonitor(Path(sys.argv[1]))])
