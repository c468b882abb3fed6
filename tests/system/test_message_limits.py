"""Messages of 20 MiB between real processes: straight, through the gateway, and by `call`."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import purerpc
import pytest
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, RepeatRequest

from meshtrio import mesh
from meshtrio.client.channel import Channel, connect_to
from meshtrio.contract import TARGET_METADATA_KEY
from meshtrio.supervisor import events
from tests.support.connection_pairs import echo_requests
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import (
    ECHO_PLUGIN_DIRECTORY,
    MeshProcess,
    echo_plugin_table,
    plugin_table,
    run_meshtrio,
    serve_mesh,
)

MIB = 1024 * 1024
LARGE = "x" * (20 * MIB)
ECHO_METHOD = "echo.v1.EchoService/Echo"
UNLIMITED = -1

OWN_LIMITS = """\
from meshtrio import plugin
from echo_plugin import EchoServicer

plugin.run(EchoServicer(), max_receive_message_length=1000, max_send_message_length=2000)
"""


async def calls(channel: Channel) -> None:
    stub = channel.stub(EchoServiceStub)
    assert len((await stub.Echo(EchoRequest(message=LARGE))).message) == len(LARGE)
    compressed = await stub.Echo(EchoRequest(message=LARGE), compression="gzip")
    assert len(compressed.message) == len(LARGE)
    call = stub.Repeat(RepeatRequest(message=LARGE, count=2))
    assert [len(reply.message) async for reply in call] == [len(LARGE)] * 2


async def test_large_messages_pass_straight_and_through_the_gateway(short_dir: Path) -> None:
    config = echo_plugin_table("large", max_receive_message_length=UNLIMITED) + echo_plugin_table(
        "default"
    )
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready, count=2)
        socket = watched.mesh.socket
        async with watched.mesh.connect(
            "plugin.large", max_receive_message_length=UNLIMITED
        ) as inside:
            await calls(inside)
        async with mesh.connect(
            "plugin.large", mesh_socket=socket, max_receive_message_length=30 * MIB
        ) as outside:
            await calls(outside)
        for name, succeeds in (("plugin.large", True), ("plugin.default", False)):
            async with connect_to(
                f"unix:{socket}",
                metadata=[(TARGET_METADATA_KEY, name)],
                max_receive_message_length=UNLIMITED,
            ) as gateway:
                if succeeds:
                    await calls(gateway)
                    continue
                stub = gateway.stub(EchoServiceStub)
                with pytest.raises(
                    purerpc.ResourceExhaustedError, match="over the server's limit of 4194304"
                ):
                    await stub.Echo(EchoRequest(message=LARGE))
                assert (await stub.Echo(EchoRequest(message="well"))).message == "well"


async def test_a_service_config_of_the_mesh_lets_its_clients_receive_more(
    short_dir: Path,
) -> None:
    config = echo_plugin_table() + (
        '[[service]]\nname = "plugin.echo"\n[[service.config.methodConfig]]\n'
        "name = [{}]\nmaxResponseMessageBytes = 30000000\n"
    )
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        larger = "x" * (3 * MIB)
        async with watched.mesh.connect("plugin.echo") as channel:
            joined = await channel.stub(EchoServiceStub).Join(echo_requests(larger, larger))
            assert len(joined.message) == 6 * MIB + 1
        async with watched.mesh.connect(
            "plugin.echo", max_receive_message_length=5 * MIB
        ) as channel:
            with pytest.raises(purerpc.ResourceExhaustedError, match="max_receive_message_length"):
                await channel.stub(EchoServiceStub).Join(echo_requests(larger, larger))


async def test_a_plugins_own_lengths_and_those_of_its_config(short_dir: Path) -> None:
    (short_dir / "own.py").write_text(OWN_LIMITS)
    env = {"PYTHONPATH": str(ECHO_PLUGIN_DIRECTORY)}
    program = plugin_table("own", "own.py", cwd=short_dir, env=env)
    overridden = plugin_table(
        "configured",
        "own.py",
        cwd=short_dir,
        env=env,
        max_receive_message_length=5000,
        max_send_message_length=UNLIMITED,
    )
    async with run_mesh(program + overridden, short_dir) as watched:
        await watched.wait_for_event(events.Ready, count=2)
        for name, receives in (("own", 1000), ("configured", 5000)):
            async with watched.mesh.connect(f"plugin.{name}") as channel:
                stub = channel.stub(EchoServiceStub)
                assert (await stub.Echo(EchoRequest(message="x" * 900))).message == "x" * 900
                with pytest.raises(
                    purerpc.ResourceExhaustedError, match=f"over the server's limit of {receives}"
                ):
                    await stub.Echo(EchoRequest(message="x" * receives))
        async with watched.mesh.connect("plugin.own") as channel:
            with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 2000 bytes to send"):
                await channel.stub(EchoServiceStub).Join(echo_requests(*["x" * 900] * 3))


def call(mesh: MeshProcess, given: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_meshtrio("call", *arguments, "-", env=mesh.environment, stdin=given)


@pytest.mark.long
@pytest.mark.parametrize("straight", [False, True])
def test_call_prints_a_large_reply(straight: bool, short_dir: Path) -> None:
    request = json.dumps({"message": LARGE})
    with serve_mesh(
        short_dir, echo_plugin_table(max_receive_message_length=UNLIMITED), min_ready=1
    ) as found:
        service = f"unix:{found.runtime_dir / 'echo-0.sock'}" if straight else "plugin.echo"
        refused = call(found, request, service, ECHO_METHOD)
        assert refused.returncode == 1
        assert "over the client's limit of 4194304 bytes; raise it with --max-message-size" in (
            refused.stderr
        )
        for size in (str(30 * MIB), "-1"):
            done = call(found, request, service, ECHO_METHOD, "--max-message-size", size)
            assert (done.returncode, done.stderr) == (0, "")
            assert len(json.loads(done.stdout)["message"]) == len(LARGE)
