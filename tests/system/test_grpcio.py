"""Stock grpcio on either end of a Unix socket, all four kinds of method."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import purerpc
import pytest
import trio
from echo.v1 import echo_pb2 as pb
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio.client.channel import connect_to
from tests.support.grpcio_methods import (
    GrpcioEchoStub,
    assert_echo_methods_work,
    grpcio_echo_requests,
)
from tests.support.mesh_processes import (
    ECHO_PLUGIN_DIRECTORY,
    PLUGINS_DIRECTORY,
    ROOT,
    wait_for_server,
)

GRPCIO = ROOT / "examples" / "grpcio-plugin" / "grpcio_plugin.py"


@contextmanager
def alone(program: Path, socket: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a plugin without a mesh."""
    environment = {**os.environ, "PLUGIN_SOCKET": str(socket)}
    with subprocess.Popen([sys.executable, str(program)], env=environment) as process:
        wait_for_server(socket)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0


@contextmanager
def grpcio_client(socket: Path) -> Iterator[GrpcioEchoStub]:
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        yield GrpcioEchoStub(channel)


async def messages(*words: str) -> AsyncIterator[pb.EchoRequest]:
    for word in words:
        yield pb.EchoRequest(message=word)


def test_a_grpcio_client_calls_a_meshtrio_plugin(short_dir: Path) -> None:
    socket = short_dir / "s"
    with alone(ECHO_PLUGIN_DIRECTORY / "echo_plugin.py", socket), grpcio_client(socket) as stub:
        assert_echo_methods_work(stub)


def test_a_grpcio_client_is_told_statuses(short_dir: Path) -> None:
    socket = short_dir / "s"
    with alone(PLUGINS_DIRECTORY / "echo_chain.py", socket), grpcio_client(socket) as stub:
        cases = {
            "not-found": (grpc.StatusCode.NOT_FOUND, "no such word"),
            "fail": (grpc.StatusCode.UNKNOWN, "the handler failed"),
        }
        for word, (code, text) in cases.items():
            with pytest.raises(grpc.RpcError) as caught:
                stub.Echo(pb.EchoRequest(message=word), timeout=60)
            assert caught.value.code() is code
            assert text in caught.value.details()
            assert "secret" not in caught.value.details()
        with pytest.raises(grpc.RpcError) as caught:
            stub.Join(grpcio_echo_requests("a"), timeout=60)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as caught:
            stub.Slow(pb.SlowRequest(seconds=60), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_meshtrio_client_calls_a_grpcio_server(short_dir: Path) -> None:
    socket = short_dir / "s"
    with alone(GRPCIO, socket):
        async with connect_to(f"unix:{socket}") as channel:
            stub = channel.stub(EchoServiceStub)
            with trio.fail_after(30):
                for size in (0, 1, 100_000, 3_000_000):
                    text = "x" * size
                    assert (await stub.Echo(pb.EchoRequest(message=text))).message == text
                repeated = stub.Repeat(pb.RepeatRequest(message="r", count=1000))
                assert [reply.message async for reply in repeated] == ["r"] * 1000
                assert (await stub.Join(messages("a", "b", "c"))).message == "a b c"
                chat = stub.Chat(messages("a", "b"))
                assert [reply.message async for reply in chat] == ["a", "b"]
            with trio.move_on_after(0.2) as scope:
                await stub.Slow(pb.SlowRequest(seconds=60))
            assert scope.cancelled_caught


async def test_a_grpcio_servers_statuses_are_purerpcs_exceptions(short_dir: Path) -> None:
    socket = short_dir / "s"
    with alone(GRPCIO, socket):
        async with connect_to(f"unix:{socket}") as channel:
            client = purerpc.Client("echo.v1.NoSuchService", channel)
            signature = purerpc.RPCSignature(
                purerpc.Cardinality.UNARY_UNARY, pb.EchoRequest, pb.EchoReply
            )
            method = client.get_method_stub("Echo", signature)
            with pytest.raises(purerpc.UnimplementedError), trio.fail_after(30):
                await method(pb.EchoRequest())
