"""A served mesh and its clients, each a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh
from tests.support.mesh_processes import (
    ECHO_CLIENT_PROGRAM,
    ECHO_PLUGIN_DIRECTORY,
    MeshProcess,
    echo_plugin_table,
    serve_mesh,
)

ECHO_METHOD = "echo.v1.EchoService/Echo"


def start_client(running: MeshProcess) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ECHO_CLIENT_PROGRAM)],
        env=running.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ECHO_PLUGIN_DIRECTORY,
    )


def test_two_clients_at_once_make_each_kind_of_call(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(instances=2)) as running:
        clients = [start_client(running), start_client(running)]
        outputs = [client.communicate(timeout=60) for client in clients]
        assert [client.returncode for client in clients] == [0, 0], outputs
        for output, _ in outputs:
            assert "Echo:   hello" in output
            assert output.count("Repeat: again") == 3
            assert "Join:   one message of many" in output
            assert "Chat:   ping\nChat:   pong" in output
            assert "cancelled, in the plugin too" in output


async def test_calls_from_another_process_are_spread_evenly_over_both_instances(
    short_dir: Path,
) -> None:
    with (
        serve_mesh(short_dir, echo_plugin_table(instances=2), min_ready=2) as running,
        trio.fail_after(20),
    ):
        async with mesh.connect("plugin.echo", mesh_socket=running.socket) as channel:
            stub = channel.stub(EchoServiceStub)

            async def answered_by() -> int:
                return (await stub.Echo(EchoRequest(message="who"))).instance

            # A call waits for one connection, not for all: the second may be a moment behind.
            seen = {await answered_by()}
            while seen != {0, 1}:
                seen.add(await answered_by())
            instances = [await answered_by() for _ in range(20)]
            assert instances.count(0) == instances.count(1) == 10


def test_call_prints_the_reply_as_json(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table()) as running:
        done = running.run_command("call", "plugin.echo", ECHO_METHOD, '{"message": "hi"}')
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["message"] == "hi"


def test_call_streams_both_ways(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table()) as running:
        words = ['{"message": "a"}', '{"message": "b"}']
        done = running.run_command("call", "plugin.echo", "echo.v1.EchoService/Chat", *words)
        assert [json.loads(line)["message"] for line in done.stdout.splitlines()] == ["a", "b"]


def test_ps_gives_every_instance_as_json(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(instances=2), min_ready=2) as running:
        rows = running.ps()
        assert [(row["name"], row["instance"], row["state"]) for row in rows] == [
            ("echo", 0, "ready"),
            ("echo", 1, "ready"),
        ]
        assert {row["pid"] for row in rows} == set(running.plugin_pids())
        for row in rows:
            assert row["restarts"] == 0
            assert row["uptime"] > 0
            assert Path(row["socket"]).is_socket()


def test_an_unknown_service_is_refused_with_the_names_there_are(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table()) as running:
        done = running.run_command("call", "plugin.ehco", ECHO_METHOD, "{}")
        assert done.returncode == 1
        assert "NOT_FOUND" in done.stderr
        assert "plugin.echo" in done.stderr


def test_an_unknown_method_is_refused_with_the_names_there_are(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table()) as running:
        done = running.run_command("call", "plugin.echo", "echo.v1.EchoService/Eco", "{}")
        assert done.returncode == 2
        assert "Echo, Slow, Repeat, Join, Chat" in done.stderr


def test_without_a_mesh_the_error_says_where_it_was_looked_for(short_dir: Path) -> None:
    running = MeshProcess(None, short_dir, short_dir)  # type: ignore[arg-type]
    done = running.run_command("ps")
    assert done.returncode == 1
    assert str(short_dir / "mesh.sock") in done.stderr
    assert "meshtrio serve" in done.stderr
    assert len(done.stderr.splitlines()) == 1
