"""Class 0: kills, exits and operations."""

from __future__ import annotations

import contextlib
import os
import signal

import trio

from meshtrio.messages import control
from tests.programs import children
from tests.soak.faults import fault
from tests.soak.world import PYTHON_PLUGINS, World


@fault(0, weight=4)
async def kill_plugin(world: World) -> None:
    """An instance is killed."""
    victim = await world.one()
    if victim is not None:
        world.signal(victim.pid, signal.SIGKILL)


@fault(0)
async def terminate_plugin(world: World) -> None:
    """Somebody other than the mesh sends SIGTERM. grpcio would cancel calls at that, and is left
    out: its clients are told CANCELLED, which no policy retries."""
    victim = await world.one(*PYTHON_PLUGINS)
    if victim is not None:
        world.signal(victim.pid, signal.SIGTERM)


@fault(0)
async def kill_child(world: World) -> None:
    """A child of a plugin is killed."""
    victim = await world.one("family")
    if victim is not None:
        with contextlib.suppress(OSError):
            for pid in children(victim.pid):
                world.signal(pid, signal.SIGKILL)


@fault(0)
async def kill_warden(world: World) -> None:
    """The warden is killed; the mesh starts another."""
    before = world.warden_pid()
    world.signal(before, signal.SIGKILL)
    if not await world.until(lambda: world.warden_pid() not in (None, before), 10):
        world.wrong.append("the warden was killed, and there was no other within 10 s")


@fault(0, weight=2)
async def stop_and_continue(world: World) -> None:
    """An instance is suspended for a while, shorter or longer than its health checks allow."""
    victim = await world.one()
    if victim is not None:
        world.signal(victim.pid, signal.SIGSTOP)
        await trio.sleep(world.rng.choice((0.5, 3, 15)))
        world.signal(victim.pid, signal.SIGCONT)


@fault(0, weight=2)
async def restart(world: World) -> None:
    name = world.rng.choice(world.layout.names)
    await world.do("Restart", control.RestartRequest(name=name))


@fault(0, weight=2)
async def scale(world: World) -> None:
    name = world.rng.choice(("echo", "stream", "family", "grpcio", "go"))
    instances = world.rng.randint(1, 3)
    await world.do("Scale", control.ScaleRequest(name=name, instances=instances))


@fault(0, weight=2)
async def reload(world: World) -> None:
    """The config is read again, with another value for one plugin."""
    text = world.layout.config.read_text()
    changed = text.replace("stop_timeout = 5.", f"stop_timeout = 5.{world.rng.randrange(10)}", 1)
    path = world.layout.folder / f"reload-{world.rng.randrange(10**9)}.toml"
    path.write_text(changed)
    try:
        await world.do("Reload", control.ReloadRequest(path=str(path)))
    finally:
        path.unlink()


@fault(0)
async def exit_storm(world: World) -> None:
    """A plugin exits again and again with binary stderr."""
    for _ in range(8):
        await world.ask("stream", "exit", 0)
        await trio.sleep(0.3)


@fault(0)
async def stop_and_start(world: World) -> None:
    """An operator stops a group's worth of processes, with children in them, and starts it."""
    await world.do("Stop", control.StopRequest(name="family"))
    await world.do("Start", control.StartRequest(name="family"))


@fault(0)
async def remove_mesh_socket(world: World) -> None:
    """The mesh socket is deleted; the mesh makes it again."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(world.layout.mesh_socket)
    if not await world.until(world.layout.mesh_socket.exists, 20):
        world.wrong.append("the mesh socket was removed, and was not there again within 20 s")
