"""Class 4: too much to do, which is no death."""

from __future__ import annotations

import subprocess
import sys

import trio

from tests.soak.fault_context import PYTHON_PLUGINS, FaultContext
from tests.soak.faults import register_fault

_BURN = "import time\nend = time.monotonic() + {}\nwhile time.monotonic() < end: pass"


@register_fault(4)
async def connections_to_a_plugin(world: FaultContext) -> None:
    """500 connections to a plugin that may have 1,024 descriptors."""
    victim = await world.pick_instance("echo", "stream")
    if victim is not None:
        await world.run_attack("many_connections", victim.socket, 12)


@register_fault(4)
async def connections_to_the_mesh(world: FaultContext) -> None:
    await world.run_attack("many_connections", world.layout.mesh_socket, 3)


@register_fault(4)
async def burners(world: FaultContext) -> None:
    """Four processes that take all of the CPU."""
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            command = [sys.executable, "-I", "-S", "-c", _BURN.format(4)]
            nursery.start_soon(trio.run_process, command)


@register_fault(4)
async def busy_plugin(world: FaultContext) -> None:
    """A thread of a plugin takes its interpreter's lock."""
    await world.request_misbehavior(world.rng.choice(PYTHON_PLUGINS), "burn", 4)
    await trio.sleep(4)


@register_fault(4)
async def stuck_plugin(world: FaultContext) -> None:
    """A plugin's event loop stands still, for a moment or until it is killed."""
    seconds = world.rng.choice((1, 3, 20))
    await world.request_misbehavior(world.rng.choice(PYTHON_PLUGINS), "stand_still", seconds)
    await trio.sleep(min(seconds, 5))


@register_fault(4)
async def no_descriptors(world: FaultContext) -> None:
    """A plugin has used up its descriptors."""
    await world.request_misbehavior(world.rng.choice(PYTHON_PLUGINS), "take_descriptors", 3)
    await trio.sleep(3)


@register_fault(4)
async def stopped_warden(world: FaultContext) -> None:
    """The warden is suspended for a while."""
    pid = world.warden_pid()
    world.send_signal(pid, 19)
    await trio.sleep(3)
    world.send_signal(pid, 18)


@register_fault(4)
async def child_storm(world: FaultContext) -> None:
    """Hundreds of short processes, for what looks at /proc."""
    command = ["/bin/sh", "-c", "i=0; while [ $i -lt 300 ]; do /bin/true & i=$((i+1)); done; wait"]
    await trio.run_process(command, check=False, stderr=subprocess.DEVNULL)
