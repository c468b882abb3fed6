"""How a plugin that is not on meshtrio ended is told to its callers, and what its drain has cut."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, SlowRequest

from meshtrio import mesh
from meshtrio.client.channel import Channel, connect_to
from meshtrio.errors import PluginDiedError
from meshtrio.supervisor import events
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import plugin_table


@asynccontextmanager
async def connect_in_process(watched: RecordedMesh) -> AsyncIterator[Channel]:
    async with watched.mesh.connect("plugin.foreign") as channel:
        yield channel


@asynccontextmanager
async def connect_by_registry(watched: RecordedMesh) -> AsyncIterator[Channel]:
    async with mesh.connect("plugin.foreign", mesh_socket=watched.mesh.socket) as channel:
        yield channel


@asynccontextmanager
async def connect_through_gateway(watched: RecordedMesh) -> AsyncIterator[Channel]:
    metadata = [("x-mesh-target", "plugin.foreign")]
    async with connect_to(f"unix:{watched.mesh.socket}", metadata=metadata) as channel:
        yield channel


def config(manner: str, **settings: object) -> str:
    return plugin_table("foreign", "grpcio_echo.py", manner, stop_timeout=0.3, **settings)


async def kill(watched: RecordedMesh) -> None:
    (status,) = watched.mesh.instances()
    assert status.pid is not None
    os.kill(status.pid, signal.SIGKILL)


async def stop(watched: RecordedMesh) -> None:
    await watched.mesh.stop("foreign")


async def restart(watched: RecordedMesh) -> None:
    await watched.mesh.restart("foreign")


async def crash(watched: RecordedMesh) -> None:
    async with connect_in_process(watched) as channel:
        with pytest.raises(PluginDiedError):
            await channel.stub(EchoServiceStub).Echo(EchoRequest(message="crash"))


@pytest.mark.parametrize(
    "connect", [connect_in_process, connect_by_registry, connect_through_gateway]
)
@pytest.mark.parametrize(
    ("manner", "end", "text", "number", "status"),
    [
        ("ends", kill, "was killed by SIGKILL", signal.SIGKILL, None),
        ("ignores", stop, "did not stop within 0.3 s and was killed by SIGKILL", 9, None),
        ("ignores", restart, "did not stop within 0.3 s and was killed by SIGKILL", 9, None),
        ("dies", stop, "was stopped; it was killed by SIGTERM", signal.SIGTERM, None),
        ("ends", stop, "was stopped", None, 0),
        ("ends", crash, "exited with status 9", None, 9),
    ],
)
async def test_callers_of_a_foreign_plugin_are_told_how_it_ended(
    connect: Callable,
    manner: str,
    end: Callable,
    text: str,
    number: int | None,
    status: int | None,
    short_dir: Path,
) -> None:
    async with run_mesh(config(manner, backoff={"initial": 30}), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        async with connect(watched) as channel, trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(purerpc.UnavailableError) as caught, trio.fail_after(20):
                    await channel.stub(EchoServiceStub).Slow(SlowRequest(seconds=60))
                assert text in str(caught.value)
                if connect is connect_through_gateway:
                    return
                error = caught.value
                assert isinstance(error, PluginDiedError), repr(error)
                assert (error.signal, error.exit_status) == (number, status)
                if status == 9:
                    assert error.stderr_tail == ("about to crash",)

            nursery.start_soon(call)
            await watched.wait_for_line("slow begins")
            with trio.fail_after(20):
                await end(watched)


async def test_a_drain_does_not_claim_what_it_does_not_know(short_dir: Path) -> None:
    async with run_mesh(config("ends"), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        (drained,) = await watched.mesh.drain("foreign")
        assert (drained.cut_calls, drained.cut_calls_known) == ((), False)
        # What does not run has no calls to cut.
        (again,) = await watched.mesh.drain("foreign")
        assert (again.cut_calls, again.cut_calls_known) == ((), True)


async def drain_during_call(
    table: str, folder: Path, *, suspended: bool = False
) -> tuple[RecordedMesh, object]:
    """Drain a plugin during a call; a `suspended` plugin (SIGSTOP) cannot react."""
    async with run_mesh(table, folder) as watched:
        async with watched.mesh.connect("plugin.chain") as channel, trio.open_nursery() as nursery:

            async def call() -> None:
                with pytest.raises(purerpc.UnavailableError):
                    await channel.stub(EchoServiceStub).Slow(SlowRequest(seconds=60))

            nursery.start_soon(call)
            await watched.wait_for_line("slow begins")
            if suspended:
                (status,) = watched.mesh.instances()
                assert status.pid is not None
                os.kill(status.pid, signal.SIGSTOP)
            with trio.fail_after(20):
                (drained,) = await watched.mesh.drain("chain")
    return watched, drained


async def test_a_plugin_on_meshtrio_reports_what_it_cut_whatever_it_logs(short_dir: Path) -> None:
    table = plugin_table("chain", "echo_chain.py", stop_timeout=5, output={"log_level": "error"})
    watched, drained = await drain_during_call(table, short_dir)
    assert drained.cut_calls == ("/echo.v1.EchoService/Slow",)  # type: ignore[attr-defined]
    assert drained.cut_calls_known  # type: ignore[attr-defined]
    assert not [
        seen for seen in watched.find_events(events.LineWritten) if '"meshtrio"' in seen.event.line
    ]


REPORTING = """
import signal, sys, time
def drain(*_):
    sys.stderr.write('{"meshtrio": "cut", "path": "/a.B/C"}\\n{"meshtrio": "drained"}\\nbye\\n')
    sys.exit()
signal.signal(signal.SIGTERM, drain)
print("waiting", flush=True)
time.sleep(1000)
"""


async def test_a_program_in_any_language_can_report_what_it_cut(short_dir: Path) -> None:
    async with run_mesh(plugin_table("own", "-c", REPORTING), short_dir) as watched:
        await watched.wait_for_line("waiting")
        (drained,) = await watched.mesh.drain("own")
    assert (drained.cut_calls, drained.cut_calls_known) == (("/a.B/C",), True)
    assert drained.exit is not None
    assert drained.exit.stderr_tail == ("bye",)


async def test_one_that_was_killed_before_it_could_report_is_not_known(short_dir: Path) -> None:
    table = plugin_table("chain", "echo_chain.py", stop_timeout=0)
    _, drained = await drain_during_call(table, short_dir, suspended=True)
    assert not drained.cut_calls_known  # type: ignore[attr-defined]


async def test_the_report_of_a_shutdown_says_what_is_not_known(short_dir: Path) -> None:
    chain = plugin_table("chain", "echo_chain.py")
    async with run_mesh(config("ends") + chain, short_dir) as watched:
        await watched.wait_for_event(events.Ready, count=2)
    report = watched.mesh.shutdown_report
    assert report.cut_calls == ()
    assert report.cut_calls_unknown == ("foreign/0",)
    assert str(report).endswith("whether calls of foreign/0 were cut is not known")
