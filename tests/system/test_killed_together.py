"""A mesh and its warden are killed in one moment: plugins made with meshtrio end by themselves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, SlowRequest

from meshtrio.client.channel import connect_to
from tests import ROOT
from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    MeshProcess,
    child_pids,
    echo_plugin_table,
    pids_with_environment,
    plugin_table,
    serve_mesh,
    wait_until,
)
from tests.support.process_tracking import (
    has_ended,
    hold_pidfds,
    kill_with_warden,
    nested_mesh_pids,
    nested_mesh_table,
    wait_until_ended,
    warden_pids,
)


def slow_plugin_table(kind: str, **settings: object) -> str:
    return plugin_table("p", "slow_to_stop.py", kind, ready_timeout=3600, **settings)


def test_a_plugin_ends_at_once_where_nothing_is_under_way(short_dir: Path) -> None:
    """With a stop_timeout that would be far too long to wait for."""
    with serve_mesh(
        short_dir, echo_plugin_table(instances=2, stop_timeout=3600), min_ready=2
    ) as mesh:
        with hold_pidfds(mesh.plugin_pids()) as pidfds:
            assert len(pidfds) == 2
            kill_with_warden(mesh)
            wait_until_ended(pidfds)


@pytest.mark.parametrize("kind", ["run", "serve", "wrapped", "executed", "executed-again"])
async def test_calls_under_way_finish_first(kind: str, short_dir: Path) -> None:
    with serve_mesh(short_dir, slow_plugin_table(kind, stop_timeout=3600), min_ready=1) as mesh:
        socket = mesh.runtime_dir / "p-0.sock"
        replies: list[EchoReply] = []

        async def call() -> None:
            async with connect_to(f"unix:{socket}") as channel:
                request = SlowRequest(message="under way", seconds=2.0)
                replies.append(await channel.stub(EchoServiceStub).Slow(request))

        with hold_pidfds(mesh.plugin_pids()) as pidfds:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await trio.to_thread.run_sync(mesh.wait_for_log, "slow begins")
                kill_with_warden(mesh)
            await trio.to_thread.run_sync(wait_until_ended, pidfds)
        assert [reply.message for reply in replies] == ["under way"]
        # It has ended in order: its socket is removed.
        assert not socket.exists()


@pytest.mark.parametrize("kind", ["goes-on", "children"])
def test_what_does_not_stop_is_killed_after_the_stop_timeout(kind: str, short_dir: Path) -> None:
    """Children have inherited the descriptor, which keeps nothing from being noticed."""
    with serve_mesh(short_dir, slow_plugin_table(kind, stop_timeout=1), min_ready=1) as mesh:
        if kind == "children":
            wait_until(lambda: mesh.log.count("of lasting") == 2)
        with hold_pidfds(mesh.plugin_pids()) as pidfds:
            assert len(pidfds) == (3 if kind == "children" else 1)
            kill_with_warden(mesh)
            wait_until_ended(pidfds)


@pytest.mark.parametrize("depth", [1, 2])
def test_meshes_in_plugins_stop(depth: int, short_dir: Path) -> None:
    with serve_mesh(short_dir, nested_mesh_table(short_dir, depth)) as mesh:
        with hold_pidfds(nested_mesh_pids(mesh, short_dir, depth)) as pidfds:
            kill_with_warden(mesh)
            wait_until_ended(pidfds)


def test_a_program_that_serves_a_mesh_as_a_plugin_stops(short_dir: Path) -> None:
    (short_dir / "inner.toml").write_text(plugin_table("inner", "-I", "-S", "minimal.py"))
    command = ["-m", "meshtrio", "serve", f"{short_dir}/inner.toml", "--runtime-dir"]
    config = plugin_table("outer", *command, f"{short_dir}/i", cwd=ROOT, ready_timeout=3600)
    with serve_mesh(short_dir, config) as mesh:
        mesh.wait_for_log("inner/0: ready")
        inner = pids_with_environment(f"PLUGIN_SOCKET={short_dir}/i/")
        (serving,) = mesh.plugin_pids()
        with hold_pidfds([serving, *inner, *warden_pids(serving)]) as pidfds:
            assert len(pidfds) == 3
            kill_with_warden(mesh)
            wait_until_ended(pidfds)
            # In order: its lock file stays, its sockets do not.
            assert os.listdir(short_dir / "i") == ["mesh.lock"]


FORKED = """
import os, sys, time
from pathlib import Path

import trio

from meshtrio import mesh
from meshtrio.config import MeshConfig, PluginConfig
from tests.support.mesh_processes import START_METHOD

command = ["{python}", "slow_to_stop.py", "run"]
plugin = PluginConfig("p", command, cwd=Path(sys.argv[2]), start=START_METHOD)

async def main():
    async with trio.open_nursery() as nursery:
        running = await nursery.start(mesh.main, MeshConfig([plugin], runtime_dir=sys.argv[1]))
        while running.instances()[0].state.value != "ready":
            await trio.sleep(0.01)
        copy = os.fork()
        if copy == 0:
            time.sleep(3600)
        print(copy, flush=True)

trio.run(main)
"""


def test_a_forked_copy_of_the_mesh_keeps_no_plugin_alive(short_dir: Path) -> None:
    """It has all of its descriptors, so that no pipe from the mesh would close."""
    command = [sys.executable, "-c", FORKED, str(short_dir / "run"), str(PLUGINS_DIRECTORY)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        copy = int(process.stdout.readline())
        mesh = MeshProcess(process, short_dir / "run", short_dir / "log")
        with hold_pidfds([copy]) as copies, hold_pidfds(mesh.plugin_pids()) as pidfds:
            assert len(pidfds) == 1
            assert child_pids(process.pid)
            kill_with_warden(mesh)
            wait_until_ended(pidfds)
            assert not any(map(has_ended, copies.values()))


def test_a_descriptor_of_something_else_is_not_taken_for_the_meshs(short_dir: Path) -> None:
    """As in a child of a plugin, which has inherited the variable but not the descriptor."""
    program = (
        "import os, signal, subprocess, sys, threading, time, trio; "
        "from meshtrio.supervisor.process.cleanup.mesh_exit import wait_for_mesh_exit; "
        "read, write = os.pipe(); os.close(write); "
        "child = subprocess.Popen(['true']); pidfd = os.pidfd_open(child.pid); "
        "os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)\n"
        "for text in (str(read), str(pidfd), '987', '-1', 'x', ''):\n"
        "    os.environ['MESH_PIDFD'] = text\n"
        "    assert not trio.run(wait_for_mesh_exit), text\n"
        "parent = os.pidfd_open(os.getppid())\n"
        "os.environ['MESH_PIDFD'] = str(parent)\n"
        "print('watching', flush=True)\n"
        "assert trio.run(wait_for_mesh_exit)\n"
        "os.write(2, b'over')"
    )
    command = ["sh", "-c", '"$@"; :', "sh", sys.executable, "-c", program]
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"watching\n"
        process.send_signal(signal.SIGKILL)
        assert process.stderr.read() == b"over"
