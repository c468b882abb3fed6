"""What a plugin answers to reflection costs it its reflection: not the mesh, its loop or memory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh
from meshtrio.client.reflection import describe, list_services
from meshtrio.gateway import catalog
from meshtrio.supervise import events
from tests.meshes import running
from tests.plugins.reflecting import FILES, LISTS, many_messages
from tests.programs import echo, plugin
from tests.turns import cpu_time_of, watching_turns

ECHO = "echo.v1.EchoService"
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def time_to_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    """That the other plugin is slow is not what these tests are about."""
    monkeypatch.setattr(catalog, "_LEARN_WITHIN", 20.0)


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def ask_through_the_mesh(socket: Path) -> None:
    """Call by the name of a gRPC service, which has all plugins asked what they serve, and ask the
    mesh for the types of it."""
    async with mesh.connect_to_mesh(socket) as channel:
        with trio.fail_after(300):
            reply = await channel.stub(EchoServiceStub).Echo(EchoRequest(message="hi"))
            assert reply.message == "hi"
            assert ECHO in await list_services(channel)
            assert (await describe(channel, ECHO)).FindServiceByName(ECHO)


@pytest.mark.parametrize("kind", [*FILES, *LISTS])
async def test_reflection_that_must_not_be_trusted(short_dir: Path, kind: str) -> None:
    config = plugin("bad", "reflecting.py", kind) + echo()
    async with running(config, short_dir) as watched:
        await watched.wait(events.Ready, count=2)
        before = resident()
        async with watching_turns() as turns:
            await ask_through_the_mesh(watched.mesh.socket)
        assert resident() - before < 48 * MIB
    assert turns.longest < cpu_time_of(many_messages) / 3
