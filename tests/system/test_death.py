"""A plugin dies: its callers are told at once how, and the next call meets its successor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, SlowRequest

from meshtrio.errors import PluginDiedError
from meshtrio.supervisor import events
from tests.support.in_process_mesh import (
    connect_in_process,
    connect_through_mesh_socket,
    run_mesh,
)
from tests.support.mesh_processes import plugin_table
from tests.support.scheduling_delay import SchedulingDelay

CHAIN = plugin_table("chain", "echo_chain.py", backoff={"initial": 0.05})


@pytest.mark.parametrize("connect", [connect_in_process, connect_through_mesh_socket])
async def test_callers_learn_of_a_kill_within_100_ms(connect: Callable, short_dir: Path) -> None:
    async with run_mesh(CHAIN, short_dir) as watched, connect(watched) as channel:
        stub = channel.stub(EchoServiceStub)
        pid = (await stub.Echo(EchoRequest(message="who"))).pid
        failures: list[tuple[float, PluginDiedError]] = []

        async def call() -> None:
            with pytest.raises(PluginDiedError) as caught:
                await stub.Slow(SlowRequest(message="never", seconds=60))
            failures.append((trio.current_time(), caught.value))

        with SchedulingDelay() as late:
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(call)
                for count in range(1, 6):
                    await watched.wait_for_event(
                        events.LineWritten, count=count, line="slow begins"
                    )
                killed = trio.current_time()
                os.kill(pid, signal.SIGKILL)

        assert len(failures) == 5
        for at, error in failures:
            assert at - killed < 0.1 + late.allowance
            assert isinstance(error, purerpc.UnavailableError)
            assert "plugin.chain" in str(error)
            assert "SIGKILL" in str(error)
            assert error.signal == signal.SIGKILL

        with trio.fail_after(30):
            reply = await stub.Echo(EchoRequest(message="who"))
        assert reply.pid != pid


async def test_a_dead_plugins_last_words_reach_its_callers(short_dir: Path) -> None:
    config = plugin_table("chain", "exits_in_call.py", restart="never")
    async with run_mesh(config, short_dir) as watched, connect_in_process(watched) as channel:
        stub = channel.stub(EchoServiceStub)
        with pytest.raises(PluginDiedError) as caught:
            await stub.Echo(EchoRequest(message="die"))
        assert caught.value.exit_status == 7
        assert caught.value.stderr_tail == ("I die because I was told to",)


async def test_a_waiting_call_ends_with_its_callers_scope(short_dir: Path) -> None:
    config = plugin_table("chain", "startup_faults.py", "never-bind")
    async with run_mesh(config, short_dir) as watched, connect_in_process(watched) as channel:
        with pytest.raises(trio.TooSlowError), trio.fail_after(0.2):
            await channel.stub(EchoServiceStub).Echo(EchoRequest(message="anyone?"))
