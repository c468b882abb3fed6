"""Handlers that raise what is no Exception: what their callers, other callers and the log see."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, SlowRequest

from meshtrio.errors import PluginDiedError
from meshtrio.supervisor import events
from tests.support.in_process_mesh import connect_in_process, connect_through_mesh_socket, run_mesh
from tests.support.mesh_processes import plugin_table

EXITING = plugin_table("chain", "raising_handlers.py", restart="never", stop_timeout=2)


@pytest.mark.parametrize("connect", [connect_in_process, connect_through_mesh_socket])
@pytest.mark.parametrize("word", ["cancelled", "generator"])
async def test_the_call_fails_and_the_plugin_stays(
    word: str, connect: Callable, short_dir: Path
) -> None:
    async with run_mesh(EXITING, short_dir) as watched, connect(watched) as channel:
        stub = channel.stub(EchoServiceStub)

        async def slow() -> None:
            assert (await stub.Slow(SlowRequest(message="done", seconds=0.3))).message == "done"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow)
            await watched.wait_for_line("slow begins")
            with pytest.raises(purerpc.UnknownError):
                await stub.Echo(EchoRequest(message=word))
        assert (await stub.Echo(EchoRequest(message="still"))).message == "still"
        await watched.wait_for_line("/echo.v1.EchoService/Echo: the handler raised")
        assert watched.find_events(events.Exited) == []


@pytest.mark.parametrize("connect", [connect_in_process, connect_through_mesh_socket])
@pytest.mark.parametrize(
    ("word", "status", "number", "last_line"),
    [
        ("exit", 7, None, ""),
        ("exit-in-order", 0, None, ""),
        ("exit-with-text", 1, None, "no licence"),
        ("interrupt", None, signal.SIGINT, "KeyboardInterrupt"),
    ],
)
async def test_an_exit_drains_and_callers_learn_the_status(
    word: str,
    status: int | None,
    number: int | None,
    last_line: str,
    connect: Callable,
    short_dir: Path,
) -> None:
    async with run_mesh(EXITING, short_dir) as watched, connect(watched) as channel:
        stub = channel.stub(EchoServiceStub)
        outcomes: dict[str, Any] = {}

        async def slow(name: str, seconds: float) -> None:
            try:
                outcomes[name] = await stub.Slow(SlowRequest(message=name, seconds=seconds))
            except purerpc.RpcFailedError as exc:
                outcomes[name] = exc

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(slow, "short", 0.5)
                nursery.start_soon(slow, "long", 60)
                await watched.wait_for_event(events.LineWritten, count=2, line="slow begins")
                with pytest.raises(PluginDiedError) as caught:
                    await stub.Echo(EchoRequest(message=word))
    assert outcomes["short"].message == "short"
    for error in (caught.value, outcomes["long"]):
        assert isinstance(error, PluginDiedError)
        assert (error.exit_status, error.signal) == (status, number)
        assert last_line in "\n".join(error.stderr_tail)


@pytest.mark.parametrize("connect", [connect_in_process, connect_through_mesh_socket])
async def test_callers_wait_for_a_process_that_takes_its_time_to_end(
    connect: Callable, short_dir: Path
) -> None:
    config = plugin_table("chain", "raising_handlers.py", "slowly", restart="never", stop_timeout=5)
    async with run_mesh(config, short_dir) as watched, connect(watched) as channel:
        stub = channel.stub(EchoServiceStub)
        with trio.fail_after(20), pytest.raises(PluginDiedError) as caught:
            await stub.Echo(EchoRequest(message="exit"))
    assert caught.value.exit_status == 7


async def test_an_exit_ends_plugin_serve_beside_other_tasks(short_dir: Path) -> None:
    config = plugin_table("chain", "raising_handlers.py", "serve", restart="never", stop_timeout=2)
    async with run_mesh(config, short_dir) as watched, connect_in_process(watched) as channel:
        stub = channel.stub(EchoServiceStub)
        with trio.fail_after(20), pytest.raises(PluginDiedError) as caught:
            await stub.Echo(EchoRequest(message="exit"))
    # By Python's rules for a SystemExit that is in the group of a nursery.
    assert caught.value.exit_status == 1
    assert "SystemExit: 7" in "\n".join(caught.value.stderr_tail)
