"""Servers and clients of the gRPC interop cases: ours, grpc-go's, and a gateway before them."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio

from meshtrio.client.channel import connect_to
from meshtrio.http2.limits import Limits
from tests.interop.client import CASES
from tests.support.mesh_processes import serve_mesh, wait_until
from tests.support.ports import find_free_port
from tests.tools import find_tool


@contextmanager
def start_interop_gateway(port: int) -> Iterator[int]:
    """The port of a gateway to a server on another."""
    listen = find_free_port()
    config = f"""
    [mesh.gateway]
    listen = "tcp://127.0.0.1:{listen}"
    security = "plaintext"

    [[service]]
    name = "interop"
    endpoints = ["tcp://127.0.0.1:{port}"]
    services = ["grpc.testing.TestService"]
    """
    with tempfile.TemporaryDirectory(prefix="mt-") as folder, serve_mesh(Path(folder), config):
        yield listen


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
    port = find_free_port()
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


async def run_interop_case(name: str, port: int) -> None:
    with trio.fail_after(CASE_TIMEOUT):
        async with connect_to(f"tcp:127.0.0.1:{port}") as channel:
            await CASES[name](channel)
