"""Clients and plugins of other gRPC libraries, with a plugin that is started on demand."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import attrs
import grpc
import pytest
import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.config import MeshConfig, PluginConfig, StartMethod
from meshtrio.supervisor import events
from tests.held_sockets.connects import held_echo_plugin
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.ports import find_free_port
from tests.tools import find_tool

ROUNDS = 3


async def wait_until_idle(watched: RecordedMesh) -> None:
    with trio.fail_after(60):
        while not is_idle(watched):  # noqa: ASYNC110 - no event tells this
            await trio.sleep(0.01)
    supervisor = watched.mesh._supervisor
    await supervisor.wait_until(lambda: all(each.is_available for each in supervisor.instances))


def is_idle(watched: RecordedMesh) -> bool:
    return [each.state.value for each in watched.mesh.instances()] == ["idle"]


def count_starts(watched: RecordedMesh) -> int:
    return len(watched.find_events(events.Starting))


def make_plugin(*command: str, listen: str | None = None, idle_timeout: float) -> PluginConfig:
    plugin = held_echo_plugin(*command, listen=listen, start=StartMethod.ON_DEMAND)
    return attrs.evolve(plugin, idle_timeout=idle_timeout)


def echo_repeatedly(channel: grpc.Channel, pauses: list[float]) -> None:
    call = channel.unary_unary(
        "/echo.v1.EchoService/Echo",
        request_serializer=EchoRequest.SerializeToString,
        response_deserializer=EchoReply.FromString,
    )
    for pause in pauses:
        assert call(EchoRequest(message="x"), timeout=60).message
        time.sleep(pause)


@pytest.mark.parametrize("is_tcp", [False, True])
async def test_calls_of_grpcio_on_the_socket_start_it(short_dir: Path, is_tcp: bool) -> None:
    port = find_free_port()
    plugin = make_plugin(listen=f"tcp://127.0.0.1:{port}" if is_tcp else None, idle_timeout=0.2)
    target = f"127.0.0.1:{port}" if is_tcp else f"unix:{short_dir}/run/echo-0.held.sock"
    async with run_mesh(MeshConfig([plugin]), short_dir) as watched:
        await wait_until_idle(watched)
        with grpc.insecure_channel(target) as channel:
            call = partial(trio.to_thread.run_sync, echo_repeatedly, channel)
            for number in range(ROUNDS):
                await call([0.0])
                assert count_starts(watched) > number
                await wait_until_idle(watched)
            count = count_starts(watched)
            await trio.sleep(0.5)  # Its connection has ended, and it makes none before a call.
            assert (count_starts(watched), is_idle(watched)) == (count, True)
            # Around the time at which it is stopped.
            await call([0.18 + number % 10 * 0.012 for number in range(30)])


@pytest.mark.parametrize("is_tcp", [False, True])
async def test_a_plugin_on_grpc_go_is_stopped_without_connections(
    short_dir: Path, is_tcp: bool
) -> None:
    port = find_free_port()
    listen = f"tcp://127.0.0.1:{port}" if is_tcp else None
    plugin = make_plugin(find_tool("grpc-go-activation"), "echo", listen=listen, idle_timeout=0.2)
    target = f"127.0.0.1:{port}" if is_tcp else f"unix:{short_dir}/run/echo-0.held.sock"
    async with run_mesh(MeshConfig([plugin]), short_dir) as watched:
        for number in range(ROUNDS):
            await wait_until_idle(watched)
            with grpc.insecure_channel(target) as channel:
                call = partial(trio.to_thread.run_sync, echo_repeatedly, channel)
                await call([0.0])
                await trio.sleep(2.5)  # more than two looks at its connections
                assert count_starts(watched) == number + 1
                assert not is_idle(watched)
                await call([0.0])
