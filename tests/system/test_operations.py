"""Operations on a real mesh, with calls under way."""

from __future__ import annotations

from pathlib import Path

import attrs
import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, SlowRequest

from meshtrio import mesh
from meshtrio.supervisor import events
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import echo_plugin_table, plugin_table


class Callers:
    """Tasks that call without pause, here and through the mesh socket; every failure is kept."""

    def __init__(self) -> None:
        self.answered = 0
        self.failures: list[Exception] = []

    async def call(self, watched: RecordedMesh, outside: bool) -> None:
        connect = (
            mesh.connect("plugin.echo", mesh_socket=watched.mesh.socket)
            if outside
            else watched.mesh.connect("plugin.echo")
        )
        async with connect as channel:
            stub = channel.stub(EchoServiceStub)
            while True:
                try:
                    await stub.Echo(EchoRequest(message="hi"))
                    await stub.Slow(SlowRequest(message="hi", seconds=0.02))
                except purerpc.RpcFailedError as exc:
                    self.failures.append(exc)
                self.answered += 1


async def test_rolling_restart_reload_and_scale_lose_no_call(short_dir: Path) -> None:
    async with run_mesh(echo_plugin_table(instances=2), short_dir) as watched:
        await watched.wait_for_event(events.Ready, count=2)
        pids = {status.pid for status in watched.mesh.instances()}
        callers = Callers()
        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(callers.call, watched, number % 2 == 0)
            with trio.fail_after(60):
                await watched.mesh.restart("echo")
                await watched.mesh.scale("echo", 3)
                config = watched.mesh.config
                changed = attrs.evolve(config.plugins[0], env={"CHANGED": "1"}, instances=2)
                report = await watched.mesh.reload(attrs.evolve(config, plugins=[changed]))
                before = callers.answered
                while callers.answered < before + 50:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert callers.failures == []
        assert report.restarted == ("echo",)
        statuses = watched.mesh.instances()
        assert [status.state.value for status in statuses] == ["ready", "ready"]
        assert not pids & {status.pid for status in statuses}


async def test_a_drain_tells_which_calls_it_cut(short_dir: Path) -> None:
    async with run_mesh(
        plugin_table("chain", "echo_chain.py", stop_timeout=10), short_dir
    ) as watched:
        async with watched.mesh.connect("plugin.chain") as channel:
            stub = channel.stub(EchoServiceStub)
            async with trio.open_nursery() as nursery:

                async def cut() -> None:
                    with pytest.raises(purerpc.UnavailableError):
                        await stub.Slow(SlowRequest(message="", seconds=60))

                nursery.start_soon(cut)
                await watched.wait_for_line("slow begins")
                with trio.fail_after(30):
                    (report,) = await watched.mesh.drain("chain")
        assert report.cut_calls == ("/echo.v1.EchoService/Slow",)
        assert not report.was_killed
        assert report.exit is not None
        assert report.exit.is_clean
