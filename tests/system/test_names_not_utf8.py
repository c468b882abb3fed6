"""Names, paths and values of the system that are not UTF-8 harm no mesh."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh
from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub
from meshtrio.config import Containment, MeshConfig, PluginConfig, RestartPolicy
from meshtrio.messages import channelz as channelz_messages
from meshtrio.messages import control as messages
from meshtrio.supervisor import events
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import (
    ECHO_CLIENT_PROGRAM,
    ECHO_PLUGIN_DIRECTORY,
    ROOT,
    START_METHOD,
    MeshProcess,
    plugin_table,
    serve_mesh,
    wait_until,
)
from tests.support.scrapes import make_metrics_config

MINIMAL = ["-I", "-S", "minimal.py"]
NAMES = [b"caf\xc3", b"a) R 1 2 3 4 (", b"x\n\xff", "проверка".encode()[:15]]


@contextmanager
def run_process_named(name: bytes) -> Iterator[int]:
    """Run a process with this name beside the mesh, as any user of the machine may."""
    program = (
        "import ctypes, sys; "
        f"ctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0); "
        "print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        process.kill()


def test_another_process_of_any_name_ends_no_mesh(short_dir: Path) -> None:
    limited = {"containment": {"memory": 2**30}, "backoff": {"initial": 0.05}}
    with make_metrics_config() as (table, url), ExitStack() as others:
        config = (
            table + plugin_table("a", *MINIMAL, **limited) + plugin_table("b", *MINIMAL, **limited)
        )
        for name in NAMES:
            others.enter_context(run_process_named(name))
        with serve_mesh(short_dir, config, min_ready=2) as mesh:
            for command in (["restart", "a"], ["stop", "b"], ["start", "b"]):
                done = mesh.run_command(*command)
                assert done.returncode == 0, done.stderr
            top = mesh.run_command("top", "--once", "--json", "--interval", "0.1")
            assert top.returncode == 0, top.stderr
            assert [row["resident"] > 0 for row in json.loads(top.stdout)["instances"]] == [
                True
            ] * 2
            with urllib.request.urlopen(url, timeout=10) as reply:
                assert b"mesh_instance_resident_memory" in reply.read()
            # The memory of plugins is looked at once a second: until then, the mesh goes on.
            os.kill(mesh.ps()[0]["pid"], signal.SIGKILL)
            wait_until(lambda: mesh.log.count("ready after") == 5)
            wait_until(lambda: mesh.ps()[0]["uptime"] > 1.5)
            assert mesh.stop() == 0
        assert "Traceback" not in mesh.log


@contextmanager
def serve_mesh_in_bytes(folder: Path) -> Iterator[MeshProcess]:
    """Serve a mesh whose runtime dir, config, cwd, program, argument and variable are not UTF-8."""
    odd = Path(os.fsdecode(os.fsencode(folder) + b"/caf\xc3"))
    shutil.copytree(ECHO_PLUGIN_DIRECTORY, odd)
    program = odd / os.fsdecode(b"pr\xff")
    program.symlink_to(sys.executable)
    (odd / "mesh.toml").write_text(
        '[[plugin]]\nname = "echo"\ncommand = ["{python}", "echo_plugin.py"]\n'
        "stop_timeout = 10\nready_timeout = 60\n"
    )
    log = folder / "log"
    command = [str(program), "-m", "meshtrio", "serve", str(odd / "mesh.toml")]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command, "--runtime-dir", str(odd / "run"), "--log-format", "json"],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
                "CAF": os.fsdecode(b"\xc3"),
                os.fsdecode(b"\xff"): "x",
            },
            cwd=ROOT,
            stdout=out,
            stderr=out,
        )
    mesh = MeshProcess(process, odd / "run", log)
    try:
        wait_until(lambda: "ready after" in mesh.log or process.poll() is not None)
        yield mesh
    finally:
        process.kill()
        process.wait()


COMMANDS = [
    "ps",
    "ps --json",
    "tree",
    "tree --json",
    "top --once --interval 0.1",
    "top --once --interval 0.1 --json",
    "services",
    "services --json",
    "events",
    "events --json",
    "logs",
    "logs --json",
    "restart echo",
    "drain echo",
    "start echo",
    "scale echo 2",
    "reload",
]


@pytest.mark.long
def test_paths_and_values_that_are_not_utf8_harm_nothing(short_dir: Path) -> None:
    with serve_mesh_in_bytes(short_dir) as mesh:
        for command in COMMANDS:
            done = mesh.run_command(*command.split())
            assert done.returncode == 0, (command, done.stderr, mesh.log)
        call = ["call", "plugin.echo", "echo.v1.EchoService/Echo", '{"message": "hi"}']
        done = mesh.run_command(*call)
        assert '"hi"' in done.stdout, done.stderr
        done = mesh.run_command("plugin.echo", program=str(ECHO_CLIENT_PROGRAM))
        assert done.returncode == 0, done.stderr
        refused = mesh.run_command("reload", os.fsdecode(b"caf\xc3.toml"))
        assert refused.returncode == 2
        assert "not UTF-8" in refused.stderr
        assert mesh.stop() == 0
        lines = [json.loads(line) for line in mesh.log.splitlines()]
    assert not [line for line in lines if line["level"] in ("ERROR", "CRITICAL")]
    assert os.listdir(mesh.runtime_dir) == ["mesh.lock"]


async def test_arguments_and_values_of_plugins_may_be_any_bytes(short_dir: Path) -> None:
    odd = os.fsdecode(b"\xff")
    text = (
        "import os, sys; print(ascii(sys.argv[1]), ascii(os.environ['ODD']), flush=True); input()"
    )
    for containment in (Containment(), Containment(nice=1)):
        config = MeshConfig(
            [
                PluginConfig(
                    "odd",
                    ["{python}", "-c", text, odd],
                    env={"ODD": odd, odd: odd},
                    containment=containment,
                    start=START_METHOD,
                )
            ]
        )
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_for_line(r"'\udcff' '\udcff'")


async def test_a_program_that_cannot_be_started_may_have_any_name(short_dir: Path) -> None:
    missing = os.fsdecode(os.fsencode(short_dir) + b"/caf\xc3")
    config = MeshConfig([PluginConfig("p", [missing], restart=RestartPolicy.NEVER)])
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.GaveUp)
        async with connect_to_mesh(watched.mesh.socket) as channel:
            control = DynamicStub(channel, messages.DESCRIPTOR.services_by_name["Control"])
            reply = await control.ListInstances(messages.ListInstancesRequest())
            assert "could not be started" in reply.instances[0].reason


async def test_a_socket_outside_the_mesh_may_have_any_path(short_dir: Path) -> None:
    path = os.fsdecode(os.fsencode(short_dir) + b"/caf\xc3.sock")
    environment = {**os.environ, "PLUGIN_SOCKET": path}
    async with run_mesh(MeshConfig(), short_dir) as watched:
        process = await trio.lowlevel.open_process(
            [sys.executable, str(ECHO_PLUGIN_DIRECTORY / "echo_plugin.py")], env=environment
        )
        try:
            where = {"mesh_socket": watched.mesh.socket}
            async with mesh.register("outside", path, **where):
                async with mesh.connect("outside", **where) as channel:
                    with trio.fail_after(30):
                        reply = await channel.stub(EchoServiceStub).Echo(EchoRequest(message="hi"))
                    assert reply.pid == process.pid
                async with connect_to_mesh(watched.mesh.socket) as channel:
                    channelz = DynamicStub(
                        channel, channelz_messages.DESCRIPTOR.services_by_name["Channelz"]
                    )
                    await channelz.GetTopChannels(channelz_messages.GetTopChannelsRequest())
        finally:
            process.terminate()
            await process.wait()
