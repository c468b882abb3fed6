"""Values as stock grpcio sends them, from it and to it, straight and through the mesh socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import grpc
import purerpc
import pytest
import trio
from echo.v1 import echo_pb2 as pb
from google.protobuf.wrappers_pb2 import BytesValue

from meshtrio.client.multicallable import make_multicallable
from meshtrio.rpc.method import Method
from meshtrio.supervisor import events
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import plugin_table

PLUGINS = plugin_table("ours", "metadata_echo.py") + plugin_table(
    "stock", "grpcio_values.py", services=["t.T"]
)
ECHO, FAIL, METADATA = "/echo.v1.EchoService/Echo", "/t.T/Fail", "/t.T/Metadata"
TEXTS = [
    "cannot open file: ",
    "  leading",
    " ",
    "100% né\r\n\tdone\x7f",
    "日本語 " * 150,
]


@contextmanager
def grpcio_calls(socket: str) -> Iterator[Any]:
    """Calls of stock grpcio, bytes in and out: `(reply or error, call)`."""
    with grpc.insecure_channel(f"unix:{socket}") as channel:

        def call(path: str, request: bytes, metadata: Any = ()) -> Any:
            try:
                return channel.unary_unary(path).with_call(request, metadata=metadata, timeout=20)
            except grpc.RpcError as exc:
                return exc, exc

        yield call


async def sockets(watched: RecordedMesh, name: str) -> list[str]:
    """Yield the socket of a plugin once it is ready, and the mesh's."""
    await watched.wait_for_event(events.Ready, plugin=name)
    (own,) = watched.mesh.socket.parent.glob(f"{name}*.sock")
    return [str(own), str(watched.mesh.socket)]


@pytest.mark.parametrize("text", TEXTS, ids=["end", "start", "space", "odd", "long"])
async def test_messages_of_grpcio_arrive_as_they_were_given(text: str, short_dir: Path) -> None:
    async with run_mesh(PLUGINS, short_dir) as watched:
        for socket in await sockets(watched, "stock"):
            with grpcio_calls(socket) as call:
                error, _ = await trio.to_thread.run_sync(call, FAIL, text.encode())
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert error.details() == text


@attrs.frozen
class RawMessage:
    """A message that is its bytes."""

    data: bytes

    def SerializeToString(self) -> bytes:
        return self.data

    def ByteSize(self) -> int:
        return len(self.data)


METADATA_SENT = (("x-spaces", " v "), ("x-tail", "v  "), ("x-bin", b"\x00\xff"), ("x-empty", ""))


@pytest.mark.parametrize(("name", "path"), [("ours", ECHO), ("stock", METADATA)])
async def test_metadata_of_grpcio_goes_there_and_back(
    name: str, path: str, short_dir: Path
) -> None:
    expected = {key: value.strip() if key != "x-bin" else value for key, value in METADATA_SENT}
    request = pb.EchoRequest(message="hi").SerializeToString()
    async with run_mesh(PLUGINS, short_dir) as watched:
        for socket in await sockets(watched, name):
            with grpcio_calls(socket) as call:
                _, outcome = await trio.to_thread.run_sync(call, path, request, METADATA_SENT)
            assert outcome.code() is grpc.StatusCode.OK
            for found in (outcome.initial_metadata(), outcome.trailing_metadata()):
                found = {key: value for key, value in found if key in expected}
                stripped = {k: v.strip() if isinstance(v, str) else v for k, v in found.items()}
                assert stripped == expected


@pytest.mark.parametrize("text", ["é", "日", "a b", "%", "😀\n"], ids=ascii)
async def test_long_messages_of_ours_are_whole_for_grpcio(text: str, short_dir: Path) -> None:
    request = pb.EchoRequest(message=f"fail {text}").SerializeToString()
    async with run_mesh(PLUGINS, short_dir) as watched:
        for socket in await sockets(watched, "ours"):
            with grpcio_calls(socket) as call:
                error, _ = await trio.to_thread.run_sync(call, ECHO, request)
            assert error.code() is grpc.StatusCode.NOT_FOUND
            assert error.details().endswith("…")
            assert (text * 10_000).startswith(error.details()[:-1])
            assert len(error.details()) > 300


async def test_a_request_that_cannot_be_parsed_is_internal(short_dir: Path) -> None:
    async with run_mesh(PLUGINS, short_dir) as watched:
        for socket in await sockets(watched, "ours"):
            with grpcio_calls(socket) as call:
                error, _ = await trio.to_thread.run_sync(call, ECHO, b"\xff")
            assert error.code() is grpc.StatusCode.INTERNAL


@pytest.mark.parametrize("text", TEXTS, ids=["end", "start", "space", "odd", "long"])
async def test_our_client_gets_the_statuses_of_grpcio(text: str, short_dir: Path) -> None:
    method = Method("t.T", "Fail", BytesValue, BytesValue, False, False)
    async with run_mesh(PLUGINS, short_dir) as watched:
        async with watched.mesh.connect("plugin.stock") as channel:
            with pytest.raises(purerpc.NotFoundError) as caught:
                await make_multicallable(channel, method)(RawMessage(text.encode()))
    assert caught.value.status.status_message == text
    assert dict(caught.value.trailing_metadata)["x-spaces"] == "v"
