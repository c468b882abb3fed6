"""Children that handlers fork are ended by signals as any process, and their plugin goes on."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.supervisor import events
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import plugin_table

FORKING = plugin_table("forking", "forking_handlers.py", ready_timeout=60, stop_timeout=10)


@pytest.mark.parametrize("where", ["loop", "thread"])
@pytest.mark.parametrize(
    ("how", "number", "expected"),
    [
        ("process", signal.SIGTERM, -signal.SIGTERM),
        ("process", signal.SIGINT, 1),
        ("process", signal.SIGQUIT, -signal.SIGQUIT),
        ("fork", signal.SIGTERM, -signal.SIGTERM),
    ],
)
async def test_a_forked_child_is_ended_by_a_signal(
    how: str, number: int, expected: int, where: str, short_dir: Path
) -> None:
    if where == "thread" and number == signal.SIGINT and sys.version_info >= (3, 13):
        pytest.skip("CPython since 3.13 loses SIGINT in half of the children forked by a thread")
    async with run_mesh(FORKING, short_dir) as watched:
        async with watched.mesh.connect("plugin.forking") as channel:
            stub = channel.stub(EchoServiceStub)
            with trio.fail_after(30):
                first = await stub.Echo(EchoRequest(message=f"{how} {where} {int(number)}"))
                assert first.message == str(expected)
                # It has not been woken to stop itself.
                again = await stub.Echo(EchoRequest(message=f"{how} {where} {int(number)}"))
                assert again.pid == first.pid
        assert not watched.find_events(events.Exited)
    (stopped,) = watched.find_events(events.Stopped)
    assert str(stopped.event.exit) == "exited with status 0"  # type: ignore[attr-defined]
