"""Programs that find a mesh, and are found: by registration, and over the mesh's own death."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio import mesh
from meshtrio.client import remote_mesh
from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.errors import NoMeshError
from tests import ROOT
from tests.support.connection_pairs import echo_request
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import MeshProcess, echo_plugin_table, serve_mesh
from tests.support.scheduling_delay import SchedulingDelay
from tests.support.servers import serve_on_socket
from tests.tools import find_tool

CLIENTS = 20
SAYS_SO_WITHIN = 0.1


@contextmanager
def go_service(service: str, folder: Path, mesh_socket: Path) -> Iterator[subprocess.Popen[str]]:
    """A Go program that has registered itself."""
    command = [
        find_tool("go-service"),
        "-service",
        service,
        "-socket",
        str(folder / f"{service}.own"),
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*command, "-mesh", str(mesh_socket)], stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline().startswith("registered as ")
            yield process
        finally:
            process.kill()


async def call_until_failure(stub: EchoServiceStub) -> str:
    """Return the status message of the failure; an answer may still be on its way."""
    with trio.fail_after(30):
        while True:
            try:
                await stub.Echo(echo_request("hi"))
            except purerpc.UnavailableError as exc:
                return str(exc.status.status_message)


async def test_a_go_program_registers_itself_is_called_and_dies(short_dir: Path) -> None:
    async with run_mesh("", short_dir) as watched:
        socket = watched.mesh.socket
        starting = go_service("plugin.go", short_dir, socket)
        process = await trio.to_thread.run_sync(starting.__enter__)
        try:
            async with mesh.connect("plugin.go", mesh_socket=socket) as channel:
                stub = channel.stub(EchoServiceStub)
                with trio.fail_after(30):
                    assert (await stub.Echo(echo_request("hi"))).message == "hi"
                process.send_signal(signal.SIGKILL)
                process.wait()
                await call_until_failure(stub)
                with SchedulingDelay() as late:
                    began = time.perf_counter()
                    text = await call_until_failure(stub)
                    took = time.perf_counter() - began
                assert took < SAYS_SO_WITHIN + late.allowance
                assert f"pid {process.pid} is gone" in text
        finally:
            starting.__exit__(None, None, None)


async def test_a_trio_program_registers_for_a_block(short_dir: Path) -> None:
    path = short_dir / "own"
    async with run_mesh("", short_dir) as watched, serve_on_socket(path):
        socket = watched.mesh.socket
        async with mesh.register("thing", path, mesh_socket=socket):
            async with mesh.connect("thing", mesh_socket=socket) as channel:
                stub = channel.stub(EchoServiceStub)
                with trio.fail_after(30):
                    assert (await stub.Echo(echo_request("?"))).message == "own"
        with trio.fail_after(30):
            async with watched.mesh.connect("thing") as channel:
                assert "deregistered it" in await call_until_failure(channel.stub(EchoServiceStub))


async def test_a_registration_that_cannot_be_is_refused(short_dir: Path) -> None:
    with pytest.raises(NoMeshError, match="no mesh answers"):
        async with mesh.register("thing", "x", mesh_socket=short_dir / "nobody"):
            pass
    async with run_mesh("", short_dir) as watched:
        socket = watched.mesh.socket
        for service, address in (("bad name!", "/x"), ("", "/x"), ("thing", "tcp:nowhere")):
            with pytest.raises(purerpc.InvalidArgumentError, match="cannot be registered"):
                async with mesh.register(service, address, mesh_socket=socket):
                    pass


async def test_who_registers_an_address_again_takes_its_place(short_dir: Path) -> None:
    async with run_mesh("", short_dir) as watched, serve_on_socket(short_dir / "own"):
        socket, path = watched.mesh.socket, short_dir / "own"

        async def register_twice() -> None:
            async with mesh.register("thing", path, mesh_socket=socket):
                async with mesh.register("thing", path, mesh_socket=socket):
                    await trio.sleep_forever()  # ended by the error of the first

        with pytest.raises(purerpc.AbortedError, match="was registered for thing again"):
            with trio.fail_after(30):
                await register_twice()


@contextmanager
def run_polling_clients(running: MeshProcess) -> Iterator[list[subprocess.Popen[str]]]:
    pipe = subprocess.PIPE
    command = [sys.executable, "-m", "tests.support.polling_client", "plugin.echo", "outside"]
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                subprocess.Popen(
                    command, cwd=ROOT, env=running.environment, stdin=pipe, stdout=pipe, text=True
                )
            )
            for _ in range(CLIENTS)
        ]


def read_counts(clients: list[subprocess.Popen[str]]) -> list[dict[str, int]]:
    """Return the counts of each client until now."""
    for client in clients:
        assert client.stdin is not None
        client.stdin.write("\n")
        client.stdin.flush()
    return [json.loads(client.stdout.readline()) for client in clients if client.stdout]


def wait_for_calls_of_all(clients: list[subprocess.Popen[str]], service: str) -> None:
    """Wait until calls of every client have succeeded from now on."""
    end = time.monotonic() + 30
    before = read_counts(clients)
    while True:
        after = read_counts(clients)
        key = f"{service} ok"
        if all(a.get(key, 0) > b.get(key, 0) + 2 for a, b in zip(after, before, strict=True)):
            return
        assert time.monotonic() < end, (before, after)


@pytest.mark.long
def test_a_mesh_is_killed_and_started_again_under_its_clients(short_dir: Path) -> None:
    with ExitStack() as stack:
        with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as first:
            stack.enter_context(go_service("outside", short_dir, first.socket))
            clients = stack.enter_context(run_polling_clients(first))
            wait_for_calls_of_all(clients, "plugin.echo")
            wait_for_calls_of_all(clients, "outside")
            first.process.kill()
            first.process.wait()
            # What the mesh did not run is called on, with nobody there to ask.
            wait_for_calls_of_all(clients, "outside")
        with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as second:
            wait_for_calls_of_all(clients, "plugin.echo")
            wait_for_calls_of_all(clients, "outside")
            services = trio.run(_wait_for_registration, second.socket)
            assert services == ["outside"]
            found = read_counts(clients)
            assert all(client.poll() is None for client in clients)
            assert [each.get("outside failed", 0) for each in found] == [0] * CLIENTS
            for client in clients:
                assert client.stdin is not None
                client.stdin.close()
            assert [client.wait(20) for client in clients] == [0] * CLIENTS


async def _wait_for_registration(socket: Path) -> list[str]:
    with trio.fail_after(20):
        while True:
            async with connect_to_mesh(socket) as channel:
                try:
                    state = await remote_mesh.resolve_remote_service(channel, "outside")
                except purerpc.NotFoundError:
                    continue
                if state.endpoints:
                    return ["outside"]
