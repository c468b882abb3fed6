"""Class 4: too much to do, which is no death."""

from __future__ import annotations

import subprocess
import sys

import trio

from tests.soak.faults import fault
from tests.soak.world import PYTHON_PLUGINS, World

_BURN = "import time\nend = time.monotonic() + {}\nwhile time.monotonic() < end: pass"


@fault(4)
async def connections_to_a_plugin(world: World) -> None:
    """500 connections to a plugin that may have 1,024 descriptors."""
    victim = await world.one("echo", "stream")
    if victim is not None:
        await world.attack("many_connections", victim.socket, 12)


@fault(4)
async def connections_to_the_mesh(world: World) -> None:
    await world.attack("many_connections", world.layout.mesh_socket, 3)


@fault(4)
async def burners(world: World) -> None:
    """Four processes that take all of the CPU."""
    async with trio.open_nursery() as nursery:
        for _ in range(4):
            command = [sys.executable, "-I", "-S", "-c", _BURN.format(4)]
            nursery.start_soon(trio.run_process, command)


@fault(4)
async def busy_plugin(world: World) -> None:
    """A thread of a plugin takes its interpreter's lock."""
    await world.ask(world.rng.choice(PYTHON_PLUGINS), "burn", 4)
    await trio.sleep(4)


@fault(4)
async def stuck_plugin(world: World) -> None:
    """A plugin's event loop stands still, for a moment or until it is killed."""
    seconds = world.rng.choice((1, 3, 20))
    await world.ask(world.rng.choice(PYTHON_PLUGINS), "stand_still", seconds)
    await trio.sleep(min(seconds, 5))


@fault(4)
async def no_descriptors(world: World) -> None:
    """A plugin has used up its descriptors."""
    await world.ask(world.rng.choice(PYTHON_PLUGINS), "take_descriptors", 3)
    await trio.sleep(3)


@fault(4)
async def stopped_warden(world: World) -> None:
    """The warden is suspended for a while."""
    pid = world.warden_pid()
    world.signal(pid, 19)
    await trio.sleep(3)
    world.signal(pid, 18)


@fault(4)
async def child_storm(world: World) -> None:
    """Hundreds of short processes, for what looks at /proc."""
    command = ["/bin/sh", "-c", "i=0; while [ $i -lt 300 ]; do /bin/true & i=$((i+1)); done; wait"]
    await trio.run_process(command, check=False, stderr=subprocess.DEVNULL)
