"""Helpers on top of trio, and errors of calls from outside of trio."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceServicer, EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio import mesh, plugin
from meshtrio.client.channel import connect_to
from meshtrio.config import MeshConfig
from meshtrio.util.errors import UsageError


async def run_mesh() -> None:
    await mesh.main(MeshConfig([]))


async def serve_plugin() -> None:
    await plugin.serve(EchoServiceServicer())


async def connect() -> None:
    async with mesh.connect("plugin.echo"):
        pass


async def connect_to_address() -> None:
    async with connect_to("unix:/nowhere"):
        pass


async def register() -> None:
    async with mesh.register("plugin.echo", "/nowhere"):
        pass


ALL = [run_mesh, serve_plugin, connect, connect_to_address, register]


@pytest.mark.parametrize("call", ALL)
def test_a_call_from_asyncio_raises_a_usage_error(call: Callable[[], Awaitable[None]]) -> None:
    with pytest.raises(UsageError, match=r"^meshtrio runs on trio: .* from asyncio\. .*trio\.run"):
        asyncio.run(call())  # type: ignore[arg-type]


@pytest.mark.parametrize("call", ALL)
def test_a_call_without_an_event_loop_raises_a_usage_error(
    call: Callable[[], Awaitable[None]],
) -> None:
    with pytest.raises(UsageError, match=r"called from outside of trio\.run\."):
        call().send(None)  # type: ignore[attr-defined]


async def test_a_call_from_asyncio_in_another_thread_raises_a_usage_error(short_dir: Path) -> None:
    failures: list[BaseException] = []
    async with connect_to(f"unix:{short_dir}/s") as channel:
        stub = channel.stub(EchoServiceStub)

        def run() -> None:
            try:
                asyncio.run(stub.Echo(EchoRequest()))
            except BaseException as exc:
                failures.append(exc)

        await trio.to_thread.run_sync(run)
    (failure,) = failures
    assert isinstance(failure, UsageError)
    assert "from asyncio" in str(failure)


def test_plugin_run_within_a_loop_says_what_to_call_instead() -> None:
    async def run() -> None:
        plugin.run(EchoServiceServicer())

    for start in (lambda: asyncio.run(run()), lambda: trio.run(run)):
        with pytest.raises(UsageError, match=r"await plugin\.serve"):
            start()


def test_trio_in_the_guest_mode_of_asyncio_is_trio() -> None:
    done = threading.Event()

    async def main() -> None:
        async with connect_to("unix:/nowhere"):
            done.set()

    async def host() -> None:
        loop = asyncio.get_running_loop()
        over = loop.create_future()
        trio.lowlevel.start_guest_run(
            main,
            run_sync_soon_threadsafe=loop.call_soon_threadsafe,
            done_callback=over.set_result,
        )
        (await over).unwrap()

    asyncio.run(host())
    assert done.is_set()


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-", "1>&- 2>&-"])
def test_standard_streams_that_are_closed_are_opened(closed: str) -> None:
    program = (
        "import os, sys, socket\n"
        "from meshtrio.util.standard_streams import open_missing_streams\n"
        "open_missing_streams()\n"
        "made = socket.socket()\n"
        "assert made.fileno() > 2\n"
        "print('to stdout'); print('to stderr', file=sys.stderr); sys.stdin.read()\n"
        "assert all(os.get_inheritable(number) for number in range(3))\n"
        "sys.exit(42)\n"
    )
    command = ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-c", program]
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ),
    )
    assert done.returncode == 42, done.stderr
    assert (done.stdout == "to stdout\n") is ("1>" not in closed)
    assert (done.stderr == "to stderr\n") is ("2>" not in closed)
