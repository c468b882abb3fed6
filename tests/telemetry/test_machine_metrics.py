"""What is told of processes never goes back while they live, and stands beside its limit."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from meshtrio.config import Containment, PluginConfig, StartMethod
from meshtrio.supervisor.process.proc.resource_usage import (
    ResourceUsage,
    read_usage_by_group,
)
from meshtrio.telemetry.metrics import resource_metrics
from meshtrio.telemetry.metrics.resource_metrics import ResourceMetrics

LABELS = (("plugin", "p"), ("plugin_instance", "0"))


@contextmanager
def leader(program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that leads a group, and waits for us when its program is through."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{program}\nprint(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def child(pid: int, start: StartMethod = StartMethod.EXEC, **containment: Any) -> Any:
    config = PluginConfig("p", ["x"], containment=Containment(**containment))
    process = SimpleNamespace(pid=pid, start_method=start)
    return SimpleNamespace(plugin="p", number=0, config=config, process=process)


async def values(metrics: ResourceMetrics, *children: Any) -> dict[tuple[str, Any], Any]:
    await metrics.sample(children)
    return {
        (family.name, point.labels): point.value
        for family in metrics.collect(children)
        for point in family.points
    }


WITH_A_CHILD = """
import os, time
if not os.fork():
    while time.process_time() < 0.3:
        pass
    os._exit(0)
os.wait()
"""


async def test_what_a_child_took_stays_counted_when_it_is_gone() -> None:
    with leader(WITH_A_CHILD) as process:
        # The kernel tells both times in ticks, each rounded down.
        assert (await read_usage_by_group())[process.pid].cpu_time >= 0.25


@pytest.mark.parametrize(("second_pid", "expected"), [(7, 5.0), (8, 1.0)])
async def test_a_counter_of_one_process_never_falls(
    second_pid: int, expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[Mapping[int, ResourceUsage]] = [
        {7: ResourceUsage(cpu_time=5.0)},
        {second_pid: ResourceUsage(cpu_time=1.0)},
    ]

    async def usage() -> Mapping[int, ResourceUsage]:
        await trio.lowlevel.checkpoint()
        return looks.pop(0)

    monkeypatch.setattr(resource_metrics, "read_usage_by_group", usage)
    metrics = ResourceMetrics()
    await values(metrics, child(7))
    found = await values(metrics, child(second_pid))
    assert found["mesh.instance.cpu_time", LABELS] == expected


async def test_what_is_used_stands_beside_what_may_be() -> None:
    limits = f"import resource\nresource.setrlimit({resource.RLIMIT_NOFILE}, (50, 60))"
    with leader(limits) as process:
        found = await values(ResourceMetrics(), child(process.pid, memory=10**8))
    assert 3 <= found["mesh.instance.open_descriptors", LABELS] < 50
    assert found["mesh.instance.max_descriptors", LABELS] == 50
    assert 0 < found["mesh.instance.resident_memory", LABELS] < 10**8
    assert found["mesh.instance.memory_limit", LABELS] == 10**8


async def test_memory_that_a_forked_process_shares_counts_in_part() -> None:
    program = "import os; data = b'x' * 10**8; forked = os.fork()\nif not forked: input()"
    name = "mesh.instance.proportional_memory"
    with leader(program) as process:
        found = await values(ResourceMetrics(), child(process.pid, StartMethod.FORK))
        executed = await values(ResourceMetrics(), child(process.pid))
    # Of the group: both processes have all of it, and each of them half.
    assert found["mesh.instance.resident_memory", LABELS] > 1.8e8
    assert 0.9e8 < found[name, LABELS] < 1.4e8
    assert (name, LABELS) not in executed


async def test_the_mesh_tells_what_it_uses_itself() -> None:
    found = await values(ResourceMetrics())
    assert found["mesh.cpu_time", ()] > 0
    assert found["mesh.resident_memory", ()] > 1e6
    assert 0 < found["mesh.open_descriptors", ()] <= found["mesh.max_descriptors", ()]
    assert found["mesh.max_descriptors", ()] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]


async def test_a_process_that_is_gone_is_left_out() -> None:
    with leader("pass") as process:
        pass
    assert not os.path.exists(f"/proc/{process.pid}")
    found = await values(ResourceMetrics(), child(process.pid))
    told = {name for name, labels in found if labels}
    assert told == set()
