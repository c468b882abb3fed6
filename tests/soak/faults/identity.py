"""Class 3: sockets and files that others put in the place of the mesh's."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import trio

from tests.soak.config import NOBODY
from tests.soak.fault_context import FaultContext
from tests.soak.faults import register_fault

_LISTEN = """
import os, socket, sys, time
path = sys.argv[1]
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(path + ".new")
    listener.listen()
    os.rename(path + ".new", path)
    time.sleep(float(sys.argv[2]))
"""
_LINK = """
import os, sys
path, target = sys.argv[1:]
os.symlink(target, path + ".new")
os.rename(path + ".new", path)
"""


@register_fault(3, needs_root=True)
async def symlink_to_a_service_of_root(world: FaultContext) -> None:
    """A contained plugin makes its socket a link to one that only root may connect to."""
    victim = await world.pick_instance("contained")
    if victim is None or not world.layout.bare_python:
        return
    secret = world.layout.folder / f"root-{world.rng.randrange(10**9)}.sock"
    with trio.socket.socket(socket.AF_UNIX) as listener:
        await listener.bind(str(secret))
        secret.chmod(0o600)
        listener.listen()
        await _as_nobody(world, _LINK, victim.socket, str(secret))
        # What is connected already would not notice.
        world.send_signal(victim.pid, 9)
        await _expect_no_request(world, listener)
    secret.unlink()
    # The plugin's user ends what it has begun: the next process binds the path anew.
    with contextlib.suppress(OSError):
        os.unlink(victim.socket)
    current = await world.pick_instance("contained")
    if current is not None:
        world.send_signal(current.pid, 9)


async def _expect_no_request(world: FaultContext, listener: trio.socket.SocketType) -> None:
    """Nobody may say anything to the server of root."""

    async def hear(sock: trio.socket.SocketType) -> None:
        with sock, contextlib.suppress(OSError):
            if await sock.recv(1000):
                world.violations.append(
                    "a contained plugin's link had the mesh or a client speak to a server of root"
                )

    with trio.move_on_after(3):
        async with trio.open_nursery() as nursery:
            while True:
                sock, _ = await listener.accept()
                nursery.start_soon(hear, sock)


@register_fault(3)
async def socket_is_replaced(world: FaultContext) -> None:
    """Another process listens in the place of a plugin's socket, and never answers."""
    victim = await world.pick_instance("stream", "flaky")
    if victim is None:
        return
    command = [sys.executable, "-I", "-S", "-c", _LISTEN, victim.socket, "3"]
    with contextlib.suppress(OSError):
        await trio.run_process(command, check=False, stderr=subprocess.DEVNULL)


@register_fault(3)
async def socket_is_removed(world: FaultContext) -> None:
    victim = await world.pick_instance("stream", "noisy", "slow")
    if victim is not None:
        with contextlib.suppress(OSError):
            os.unlink(victim.socket)


@register_fault(3, needs_root=True)
async def files_in_the_contained_folder(world: FaultContext) -> None:
    """A contained plugin puts files, folders and links where its socket is."""
    victim = await world.pick_instance("contained")
    if victim is None or not world.layout.bare_python:
        return
    program = (
        "import os, sys; os.chdir(sys.argv[1]); os.makedirs('a/b', exist_ok=True);"
        "open('x', 'w').close(); os.path.lexists('l') or os.symlink('/etc/passwd', 'l')"
    )
    await _as_nobody(world, program, str(Path(victim.socket).parent))
    world.send_signal(victim.pid, 9)


@register_fault(3, needs_root=True)
async def registrar_of_a_plugins_name(world: FaultContext) -> None:
    """A user who may register takes a plugin's name, with as much weight as there is."""
    if not world.layout.bare_python:
        return
    folder = world.layout.foreign_directory
    own = folder / f"{world.rng.randrange(10**9)}.sock"
    arguments = [str(world.layout.mesh_socket), str(own), "3"]
    output = await _as_nobody(world, (folder / "foreign_registrar.py").read_text(), *arguments)
    if output.strip() not in (b"", b"0"):
        world.violations.append(
            f"{output.decode().strip()} calls for plugin.echo went to a registrar"
        )


async def _as_nobody(world: FaultContext, program: str, *arguments: str) -> bytes:
    """Run a program, and return what it prints."""
    command = [world.layout.bare_python, "-I", "-S", "-c", program, *arguments]
    done = await trio.run_process(
        command,
        capture_stdout=True,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        check=False,
        stderr=subprocess.DEVNULL,
    )
    output: bytes = done.stdout
    return output
