"""Stock tools on the mesh socket, to plugins in Python and Go."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from echo.v1 import echo_pb2 as pb
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.support.grpcio_methods import (
    GrpcioEchoStub,
    assert_echo_methods_work,
)
from tests.support.grpcurl_as_user import run_grpcurl
from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    serve_mesh,
    wait_until,
)
from tests.tools import find_tool

ECHO = "echo.v1.EchoService"
PLUGINS = ("plugin.echo", "plugin.go")


def go_plugin(name: str = "go") -> str:
    return f'[[plugin]]\nname = "{name}"\ncommand = ["{find_tool("go-service")}"]\n'


@pytest.fixture(scope="module")
def mesh() -> Iterator[MeshProcess]:
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with serve_mesh(Path(folder), echo_plugin_table() + go_plugin(), min_ready=2) as running:
            yield running


def to(target: str) -> list[str]:
    return ["-H", f"x-mesh-target: {target}"]


# -- grpcurl -----------------------------------------------------------------------------------


def test_grpcurl_lists_and_describes_what_all_plugins_serve(mesh: MeshProcess) -> None:
    names = run_grpcurl(mesh.socket, "list").split()
    assert {ECHO, "meshtrio.v1.Control", "meshtrio.v1.Registry"} <= set(names)
    assert "rpc Chat ( stream .echo.v1.EchoRequest )" in run_grpcurl(mesh.socket, "describe", ECHO)
    assert "rpc Register" in run_grpcurl(mesh.socket, "describe", "meshtrio.v1.Registry")


@pytest.mark.parametrize("target", PLUGINS)
def test_grpcurl_calls_all_kinds_of_method(target: str, mesh: MeshProcess) -> None:
    def call(method: str, data: str) -> list[str]:
        found = run_grpcurl(mesh.socket, f"{ECHO}/{method}", data=data, options=to(target))
        decoder, replies, rest = json.JSONDecoder(), [], found.strip()
        while rest:
            reply, end = decoder.raw_decode(rest)
            replies.append(reply["message"])
            rest = rest[end:].strip()
        return replies

    two = '{"message": "a"}{"message": "b"}'
    assert call("Echo", '{"message": "hi"}') == ["hi"]
    assert call("Repeat", '{"message": "r", "count": 3}') == ["r", "r", "r"]
    assert call("Join", two) == ["a b"]
    assert call("Chat", two) == ["a", "b"]


def test_grpcurl_calls_the_first_of_two_plugins_that_serve_it(mesh: MeshProcess) -> None:
    assert json.loads(run_grpcurl(mesh.socket, f"{ECHO}/Echo", data='{"message": "hi"}'))
    mesh.wait_for_log(f"plugin.echo and plugin.go both claim {ECHO}")


@pytest.mark.parametrize(
    ("target", "mark"),
    [("plugin.echo", "cancelled while sleeping for 'd'"), ("plugin.go", "deadline: Slow")],
)
def test_a_deadline_reaches_the_plugin(target: str, mark: str, mesh: MeshProcess) -> None:
    options, data = ["-max-time", "0.5", *to(target)], '{"message": "d", "seconds": 60}'
    with pytest.raises(AssertionError, match="DeadlineExceeded"):
        run_grpcurl(mesh.socket, f"{ECHO}/Slow", data=data, options=options)
    wait_until(lambda: mark in mesh.log)


def test_a_caller_that_is_killed_cancels_the_handler(mesh: MeshProcess) -> None:
    command = [
        find_tool("grpcurl"),
        "-plaintext",
        "-d",
        "@",
        *to("plugin.go"),
        f"unix://{mesh.socket}",
    ]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, f"{ECHO}/Chat"], stdin=pipe, stdout=pipe) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b'{"message": "hi"}')
        process.stdin.flush()
        assert b"{" in process.stdout.readline()  # It has been answered.
        process.kill()
    wait_until(lambda: "cancelled: Chat" in mesh.log)


# -- grpcio ------------------------------------------------------------------------------------


def test_grpcio_lists_describes_and_calls(mesh: MeshProcess) -> None:
    with grpc.insecure_channel(f"unix:{mesh.socket}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert ECHO in database.get_services()
        file = database.FindFileContainingSymbol(ECHO)
        (service,) = file.service
        assert [method.name for method in service.method] == [
            "Echo", "Slow", "Repeat", "Join", "Chat",
        ]  # fmt: skip


@pytest.mark.parametrize("target", PLUGINS)
def test_grpcio_calls_by_authority(target: str, mesh: MeshProcess) -> None:
    options = [("grpc.default_authority", target)]
    with grpc.insecure_channel(f"unix:{mesh.socket}", options=options) as channel:
        stub = GrpcioEchoStub(channel)
        assert_echo_methods_work(stub)
        with pytest.raises(grpc.RpcError) as caught:
            stub.Slow(pb.SlowRequest(seconds=60), timeout=0.2)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_grpcio_cancels_a_handler_in_python(mesh: MeshProcess) -> None:
    with grpc.insecure_channel(f"unix:{mesh.socket}") as channel:
        request = pb.SlowRequest(message="g", seconds=60)
        slow = GrpcioEchoStub(channel).Slow
        call = slow.future(request, timeout=30, metadata=[("x-mesh-target", "plugin.echo")])
        wait_until(
            lambda: '"inFlight": 1' in run_grpcurl(mesh.socket, "meshtrio.v1.Control/GetStatistics")
        )
        call.cancel()
        wait_until(lambda: "cancelled while sleeping for 'g'" in mesh.log)


def test_two_stock_clients_at_once_are_not_mixed_up(mesh: MeshProcess) -> None:
    wrong: list[str] = []

    def work(word: str, target: str) -> None:
        with grpc.insecure_channel(f"unix:{mesh.socket}") as channel:
            stub = GrpcioEchoStub(channel)
            for number in range(200):
                text = f"{word} {number}"
                request = pb.EchoRequest(message=text)
                metadata = [("x-mesh-target", target)]
                reply = stub.Echo(request, timeout=60, metadata=metadata)
                if reply.message != text:
                    wrong.append(text)

    threads = [threading.Thread(target=work, args=(f"w{n}", PLUGINS[n % 2])) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
