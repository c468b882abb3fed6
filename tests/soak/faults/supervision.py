"""Class 0: kills, exits and operations."""

from __future__ import annotations

import contextlib
import os
import signal

import trio

from meshtrio.messages import control
from tests.soak.fault_context import PYTHON_PLUGINS, FaultContext
from tests.soak.faults import register_fault
from tests.support.mesh_processes import child_pids


@register_fault(0, weight=4)
async def kill_plugin(world: FaultContext) -> None:
    """An instance is killed."""
    victim = await world.pick_instance()
    if victim is not None:
        world.send_signal(victim.pid, signal.SIGKILL)


@register_fault(0)
async def terminate_plugin(world: FaultContext) -> None:
    """Somebody other than the mesh sends SIGTERM. grpcio would cancel calls at that, and is left
    out: its clients are told CANCELLED, which no policy retries."""
    victim = await world.pick_instance(*PYTHON_PLUGINS)
    if victim is not None:
        world.send_signal(victim.pid, signal.SIGTERM)


@register_fault(0)
async def kill_child(world: FaultContext) -> None:
    """A child of a plugin is killed."""
    victim = await world.pick_instance("family")
    if victim is not None:
        with contextlib.suppress(OSError):
            for pid in child_pids(victim.pid):
                world.send_signal(pid, signal.SIGKILL)


@register_fault(0)
async def kill_warden(world: FaultContext) -> None:
    """The warden is killed; the mesh starts another."""
    before = world.warden_pid()
    world.send_signal(before, signal.SIGKILL)
    if not await world.wait_until(lambda: world.warden_pid() not in (None, before), 10):
        world.violations.append("the warden was killed, and there was no other within 10 s")


@register_fault(0, weight=2)
async def stop_and_continue(world: FaultContext) -> None:
    """An instance is suspended for a while, shorter or longer than its health checks allow."""
    victim = await world.pick_instance()
    if victim is not None:
        world.send_signal(victim.pid, signal.SIGSTOP)
        await trio.sleep(world.rng.choice((0.5, 3, 15)))
        world.send_signal(victim.pid, signal.SIGCONT)


@register_fault(0, weight=2)
async def restart(world: FaultContext) -> None:
    name = world.rng.choice(world.layout.names)
    await world.call_control("Restart", control.RestartRequest(name=name))


@register_fault(0, weight=2)
async def scale(world: FaultContext) -> None:
    name = world.rng.choice(("echo", "stream", "family", "grpcio", "go"))
    instances = world.rng.randint(1, 3)
    await world.call_control("Scale", control.ScaleRequest(name=name, instances=instances))


@register_fault(0, weight=2)
async def reload(world: FaultContext) -> None:
    """The config is read again, with another value for one plugin."""
    text = world.layout.config.read_text()
    changed = text.replace("stop_timeout = 5.", f"stop_timeout = 5.{world.rng.randrange(10)}", 1)
    path = world.layout.folder / f"reload-{world.rng.randrange(10**9)}.toml"
    path.write_text(changed)
    try:
        await world.call_control("Reload", control.ReloadRequest(path=str(path)))
    finally:
        path.unlink()


@register_fault(0)
async def exit_storm(world: FaultContext) -> None:
    """A plugin exits again and again with binary stderr."""
    for _ in range(8):
        await world.request_misbehavior("stream", "exit", 0)
        await trio.sleep(0.3)


@register_fault(0)
async def stop_and_start(world: FaultContext) -> None:
    """An operator stops a group's worth of processes, with children in them, and starts it."""
    await world.call_control("Stop", control.StopRequest(name="family"))
    await world.call_control("Start", control.StartRequest(name="family"))


@register_fault(0)
async def remove_mesh_socket(world: FaultContext) -> None:
    """The mesh socket is deleted; the mesh makes it again."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(world.layout.mesh_socket)
    if not await world.wait_until(world.layout.mesh_socket.exists, 20):
        world.violations.append("the mesh socket was removed, and was not there again within 20 s")
