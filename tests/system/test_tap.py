"""`meshtrio trace`, and what it stands on: calls told as they end, by those who serve them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
import trio.testing
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.client.channel import connect_to
from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import tap
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.handlers import ECHO_SERVICER
from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
)
from tests.support.servers import serve_on_socket, standard_server
from tests.support.tracing import TracingHarness

ECHO = "echo.v1.EchoService/Echo"
SERVICE = tap.DESCRIPTOR.services_by_name["Tap"]


@contextmanager
def run_trace_command(found: MeshProcess, *arguments: str) -> Iterator[Iterator[dict[str, Any]]]:
    """Run `meshtrio trace --json` beside a mesh; yields what it prints."""
    command = [sys.executable, "-m", "meshtrio", "trace", "--json", *arguments]
    with subprocess.Popen(
        command, env=found.environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield (json.loads(line) for line in process.stdout)
        finally:
            process.terminate()


def call(found: MeshProcess, service: str, message: str) -> None:
    found.run_command("call", service, ECHO, json.dumps({"message": message}))


def call_until_reported(
    lines: Iterator[dict[str, Any]], make: Any, count: int
) -> list[dict[str, Any]]:
    """Make calls until `count` were reported: the first may come before the watch."""
    seen: list[dict[str, Any]] = []

    async def repeat() -> None:
        async with trio.open_nursery() as nursery:

            async def read() -> None:
                while len(seen) < count:
                    seen.append(await trio.to_thread.run_sync(next, lines, abandon_on_cancel=True))
                nursery.cancel_scope.cancel()

            nursery.start_soon(read)
            while True:
                await trio.to_thread.run_sync(make)

    trio.run(repeat)
    return seen


def test_calls_are_told_with_all_that_matters(short_dir: Path) -> None:
    with serve_mesh(
        short_dir, echo_plugin_table() + plugin_table("minimal", "minimal.py"), min_ready=2
    ) as found:
        with run_trace_command(found) as lines:
            seen = call_until_reported(lines, lambda: call(found, "plugin.echo", "hello"), 2)
        silent = [each for each in seen if each["silent"]]
        told = [each for each in seen if each["call"]]
        assert [each["plugin"] for each in silent] == ["minimal"]
        one = told[0]["call"]
        assert (told[0]["plugin"], told[0]["instance"]) == ("echo", 0)
        assert one["method"] == ECHO
        assert one["status"] == 0
        assert 0 < one["seconds"] < 5
        assert one["received"] == EchoRequest(message="hello").ByteSize()
        assert one["sent"] > one["received"]
        # The mesh passes it on: for whom is told.
        assert one["peer"].endswith(f"(pid {found.process.pid})")
        assert one["forwarded_for"].startswith("uid ")
        assert found.stop() == 0


def test_of_a_name_only_and_only_failures(short_dir: Path) -> None:
    config = plugin_table("a", "echo_chain.py") + plugin_table("b", "echo_chain.py")
    with serve_mesh(short_dir, config, min_ready=2) as found:

        def make() -> None:
            for service in ("plugin.a", "plugin.b"):
                call(found, service, "fine")
                call(found, service, "not-found")

        with run_trace_command(found, "a", "--failed", "--method", ECHO) as lines:
            seen = call_until_reported(lines, make, 2)
    assert {(each["plugin"], each["call"]["status"]) for each in seen} == {("a", 5)}
    assert seen[0]["call"]["message"] == "no such word"


def test_a_name_that_is_not_there_is_told(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as found:
        done = found.run_command("trace", "nobody")
        assert done.returncode == 1
        assert "nobody" in done.stderr
        assert "echo" in done.stderr


async def test_who_reads_slowly_is_told_how_much_he_missed(short_dir: Path) -> None:
    server, _ = standard_server(ECHO_SERVICER)
    async with (
        serve_on_socket(short_dir / "a", server),
        connect_to(f"unix:{short_dir / 'a'}") as channel,
    ):
        stub, watcher = channel.stub(EchoServiceStub), DynamicStub(channel, SERVICE)
        async with watcher.Watch(tap.WatchCallsRequest()) as watch:
            await watch.receive_message()
            for _ in range(3000):
                await stub.Echo(echo_request("hi"))
            told = missed = 0
            while told + missed < 3000:
                calls = await watch.receive_message()
                told, missed = told + len(calls.calls), missed + calls.missed
            assert told + missed == 3000
        await stub.Echo(echo_request("nobody watches"))
        await trio.testing.wait_all_tasks_blocked()
        assert server.tracer is None


async def test_what_is_told_can_be_chosen(short_dir: Path) -> None:
    async def fails(message: EchoRequest) -> Any:
        raise purerpc.AbortedError("x" * 10_000)

    server, _ = standard_server(CallbackServicer(Echo=fails))
    async with (
        serve_on_socket(short_dir / "a", server),
        connect_to(f"unix:{short_dir / 'a'}") as channel,
    ):
        watcher = DynamicStub(channel, SERVICE)
        async with (
            watcher.Watch(tap.WatchCallsRequest(method="other.")) as others,
            watcher.Watch(tap.WatchCallsRequest(at_least=100)) as slow,
            watcher.Watch(tap.WatchCallsRequest(failed=True)) as failed,
        ):
            for watch in (others, slow, failed):
                await watch.receive_message()
            with pytest.raises(purerpc.AbortedError):
                await channel.stub(EchoServiceStub).Echo(echo_request("?"))
            (told,) = (await failed.receive_message()).calls
            assert told.status == 10
            assert len(told.message) == 500
            for nothing in (others, slow):
                with trio.move_on_after(0.2) as scope:
                    await nothing.receive_message()
                assert scope.cancelled_caught


async def test_what_can_hardly_be_told_is_told_as_it_can_be(short_dir: Path) -> None:
    async def fails(message: EchoRequest) -> Any:
        raise purerpc.NotFoundError(os.fsdecode(b"no caf\xe9.txt"))

    # Sampled, and random by Level 2 of W3C Trace Context.
    trace = "0af7651916cd43dd8448eb211c80319c"
    metadata = [("traceparent", f"00-{trace}-b7ad6b7169203331-03")]
    server, _ = standard_server(CallbackServicer(Echo=fails))
    async with (
        serve_on_socket(short_dir / "a", server),
        connect_to(f"unix:{short_dir / 'a'}") as channel,
    ):
        async with DynamicStub(channel, SERVICE).Watch(tap.WatchCallsRequest()) as watch:
            await watch.receive_message()
            with pytest.raises(purerpc.NotFoundError):
                await channel.stub(EchoServiceStub).Echo(echo_request("?"), metadata=metadata)
            (told,) = (await watch.receive_message()).calls
    assert (told.message, told.trace_id) == ("no caf\ufffd.txt", trace)


async def test_a_trace_that_begins_with_the_call_is_told(short_dir: Path) -> None:
    traced = TracingHarness()
    with traced.tracing.install():
        server, _ = standard_server(ECHO_SERVICER)
    async with (
        serve_on_socket(short_dir / "a", server),
        connect_to(f"unix:{short_dir / 'a'}") as channel,
    ):
        async with DynamicStub(channel, SERVICE).Watch(tap.WatchCallsRequest()) as watch:
            await watch.receive_message()
            await channel.stub(EchoServiceStub).Echo(echo_request("?"))
            (told,) = (await watch.receive_message()).calls
    context = traced.span_named("Recv.").context
    assert context is not None
    assert told.trace_id == f"{context.trace_id:032x}"


async def test_a_watch_does_not_hold_up_the_end_of_its_server(short_dir: Path) -> None:
    server, health = standard_server(ECHO_SERVICER)
    assert isinstance(server, Server)
    async with (
        serve_on_socket(short_dir / "a", server),
        connect_to(f"unix:{short_dir / 'a'}") as channel,
    ):
        async with DynamicStub(channel, SERVICE).Watch(tap.WatchCallsRequest()) as watch:
            await watch.receive_message()
            health.shutdown_started.set()
            with trio.fail_after(30):
                assert await server.drain(5) == ()
