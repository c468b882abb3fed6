"""Restarts a forked plugin many times."""

from __future__ import annotations

import gc
import os
import signal
from pathlib import Path

import trio
import trio.testing

from meshtrio.config import MeshConfig, PluginConfig, StartMethod
from meshtrio.supervisor import events
from meshtrio.util.backoff import Backoff
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import ECHO_PLUGIN_DIRECTORY
from tests.support.process_tracking import template_pids

_WARM_UP = 400
"""Restarts before the first measurement: caches are filled, and the histories of restarts have
their full length."""
_PAGES_ALLOWED = 128
"""Pages of growth that are none: the allocator may have needed a little more at its peak."""


async def measure_restarts(folder: Path, count: int) -> dict[str, tuple[int, int]]:
    """Kill a forked plugin `count` times.

    Returns:
        What the template and the mesh, which is this process, had before and after: descriptors,
        children, and pages of memory, of which those after are without `_PAGES_ALLOWED`.
    """
    plugin = PluginConfig(
        "echo",
        ["{python}", "echo_plugin.py"],
        cwd=ECHO_PLUGIN_DIRECTORY,
        start=StartMethod.FORK,
        backoff=Backoff(initial=0.001, maximum=0.001),
        ready_timeout=60.0,
    )
    async with run_mesh(MeshConfig([plugin]), folder) as watched:
        await watched.wait_for_event(events.Ready)
        (template,) = template_pids(os.getpid())
        await _restart(watched, _WARM_UP)
        before = await _measure(template)
        await _restart(watched, count)
        assert template_pids(os.getpid()) == [template]
        after = await _measure(template)
    allowed = {name: _PAGES_ALLOWED if "pages" in name else 0 for name in before}
    return {name: (before[name], after[name] - allowed[name]) for name in before}


async def _restart(watched: RecordedMesh, count: int) -> None:
    for _ in range(count):
        (status,) = watched.mesh.instances()
        assert status.pid is not None
        watched.clear_events()
        os.kill(status.pid, signal.SIGKILL)
        await watched.wait_for_event(events.Ready)


async def _measure(template: int) -> dict[str, int]:
    gc.collect()
    await trio.testing.wait_all_tasks_blocked(0.1)
    found = {}
    for name, pid in (("mesh", os.getpid()), ("template", template)):
        found[f"descriptors of the {name}"] = len(os.listdir(f"/proc/{pid}/fd"))
        found[f"pages of the {name}"] = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return found
