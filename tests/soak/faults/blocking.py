"""Class 2: what would block the mesh's event loop, or give it work without bounds."""

from __future__ import annotations

import os
import subprocess
import sys

import trio

from meshtrio.messages import control
from tests import ROOT
from tests.attacks import raw
from tests.soak.fault_context import PYTHON_PLUGINS, FaultContext
from tests.soak.faults import register_fault


@register_fault(2)
async def traced(world: FaultContext) -> None:
    """An instance is traced, and killed by its tracer, which reaps it some seconds later."""
    victim = await world.pick_instance(*PYTHON_PLUGINS)
    if victim is not None:
        command = [sys.executable, "-m", "tests.soak.tracer", str(victim.pid), "3"]
        await trio.run_process(command, cwd=ROOT, check=False, stderr=subprocess.DEVNULL)


@register_fault(2, weight=2)
async def reload_of_no_config(world: FaultContext) -> None:
    """A reload of what is no config: a FIFO, a device, a folder, garbage, nothing."""
    folder = world.layout.folder
    fifo, garbage = folder / "fifo", folder / "garbage.toml"
    if not fifo.exists():
        os.mkfifo(fifo)
    garbage.write_bytes(world.rng.randbytes(10_000))
    path = world.rng.choice((str(fifo), "/dev/zero", str(folder), str(garbage), "/no/such", "x"))
    if not await world.call_control("Reload", control.ReloadRequest(path=path)):
        world.violations.append(f"a reload of {path} was not refused")


@register_fault(2, weight=2)
async def output_flood(world: FaultContext) -> None:
    """Plugins write empty or binary lines as fast as they are read."""
    seconds = 3.0
    async with trio.open_nursery() as nursery:
        for name in PYTHON_PLUGINS:
            nursery.start_soon(
                world.request_misbehavior, name, world.rng.choice(("flood", "garble")), seconds
            )
    await trio.sleep(seconds)


@register_fault(2)
async def stop_many_with_children(world: FaultContext) -> None:
    """Plugins that have children in and outside their groups are restarted together."""
    for name in ("stream", "noisy", "echo"):
        await world.request_misbehavior(name, "have_children", 20)
    async with trio.open_nursery() as nursery:
        for name in ("stream", "noisy", "echo", "family"):
            nursery.start_soon(world.call_control, "Restart", control.RestartRequest(name=name))


@register_fault(2)
async def scale_typo(world: FaultContext) -> None:
    """An operator scales to three million."""
    request = control.ScaleRequest(name="echo", instances=3_000_000)
    if not await world.call_control("Scale", request):
        world.violations.append("three million instances were not refused")
    await world.call_control("Scale", control.ScaleRequest(name="echo", instances=2))


@register_fault(2)
async def fast_reader(world: FaultContext) -> None:
    """A stream of replies is read as fast as it comes: its handler never has to wait."""
    await world.run_attack("fast_reader", world.layout.mesh_socket, 3)


@register_fault(2)
async def operators(world: FaultContext) -> None:
    """Many streams of events, logs and statistics are followed at once."""
    block = raw.encode_request_headers("/meshtrio.v1.Control/WatchStatistics")
    request = control.WatchStatisticsRequest(interval=0.1).SerializeToString()
    with trio.move_on_after(3):
        async with raw.connect_raw(str(world.layout.mesh_socket)) as connection:
            for stream_id in range(1, 60, 2):
                await connection.send(raw.headers_frames(stream_id, block))
                await connection.send_data(stream_id, raw.encode_message(request), end=True)
            await trio.sleep_forever()
