"""The official interop cases: grpc-go's client and our server, ours and grpc-go's server."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from meshtrio.client.channel import connect_to
from meshtrio.http2.limits import Limits
from tests.interop.client import CASES, COMPRESSED
from tests.support.mesh_processes import wait_until
from tests.tools import find_tool

CASE_TIMEOUT = 60


@contextmanager
def start_meshtrio_server(
    *certificate: str, frame_size: int = Limits().max_frame_size
) -> Iterator[int]:
    command = [sys.executable, "-m", "tests.interop.server", "0", str(frame_size), *certificate]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


@contextmanager
def start_grpc_go_server() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    with subprocess.Popen([find_tool("grpc-interop-server"), f"-port={port}"]) as process:
        try:
            wait_until(lambda: _accepts(port))
            yield port
        finally:
            process.kill()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture(scope="module")
def our_port() -> Iterator[int]:
    with start_meshtrio_server() as port:
        yield port


@pytest.fixture(scope="module")
def their_port() -> Iterator[int]:
    with start_grpc_go_server() as port:
        yield port


async def run_interop_case(name: str, port: int) -> None:
    with trio.fail_after(CASE_TIMEOUT):
        async with connect_to(f"tcp:127.0.0.1:{port}") as channel:
            await CASES[name](channel)


@pytest.mark.parametrize("name", CASES)
async def test_our_client_against_our_server(name: str, our_port: int) -> None:
    await run_interop_case(name, our_port)


@pytest.mark.parametrize("name", sorted(CASES.keys() - COMPRESSED))
async def test_our_client_against_grpc_go(name: str, their_port: int) -> None:
    await run_interop_case(name, their_port)


@pytest.mark.parametrize("name", sorted(CASES.keys() - COMPRESSED))
def test_grpc_go_against_our_server(name: str, our_port: int) -> None:
    command = [find_tool("grpc-interop-client"), "-server_host=127.0.0.1"]
    done = subprocess.run(
        [*command, f"-server_port={our_port}", f"-test_case={name}"],
        capture_output=True,
        text=True,
        timeout=CASE_TIMEOUT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
