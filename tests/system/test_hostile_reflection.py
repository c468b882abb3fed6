"""What a plugin answers to reflection costs it its reflection: not the mesh, its loop or memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.reflection import fetch_types, list_services
from meshtrio.gateway import service_index
from meshtrio.supervisor import events
from tests.plugins.malformed_reflection import FILES, LISTS, many_messages
from tests.support.in_process_mesh import run_mesh
from tests.support.loop_latency import measure_cpu_time, measure_loop_latency
from tests.support.mesh_processes import echo_plugin_table, plugin_table
from tests.support.proc import read_rss

ECHO = "echo.v1.EchoService"
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Raise the time limit of reflection: a slow bystander is not what is tested."""
    monkeypatch.setattr(service_index, "_REFLECTION_TIMEOUT", 20.0)


async def reflect_through_mesh(socket: Path) -> None:
    """Call by the name of a gRPC service, which has all plugins asked what they serve, and ask the
    mesh for the types of it."""
    async with connect_to_mesh(socket) as channel:
        with trio.fail_after(300):
            reply = await channel.stub(EchoServiceStub).Echo(EchoRequest(message="hi"))
            assert reply.message == "hi"
            assert ECHO in await list_services(channel)
            assert (await fetch_types(channel, ECHO)).pool.FindServiceByName(ECHO)


KINDS = [
    pytest.param(kind, marks=pytest.mark.long if kind == "chain" else ())
    for kind in (*FILES, *LISTS)
]


@pytest.mark.parametrize("kind", KINDS)
async def test_reflection_that_must_not_be_trusted(short_dir: Path, kind: str) -> None:
    config = plugin_table("bad", "malformed_reflection.py", kind) + echo_plugin_table()
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready, count=2)
        before = read_rss()
        async with measure_loop_latency() as turns:
            await reflect_through_mesh(watched.mesh.socket)
        assert read_rss() - before < 48 * MIB
    assert turns.max_cpu_time < measure_cpu_time(many_messages) / 3
