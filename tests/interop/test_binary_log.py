"""The same calls in our binary log and in that of grpc-go."""

from __future__ import annotations

import os
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import connect_to
from meshtrio.rpc.server import Server
from meshtrio.telemetry.binary_log import open_binary_log
from tests.support.binary_logs import (
    Entry,
    entry_metadata,
    entry_type,
    read_entries,
    split_by_logger,
)
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.mesh_processes import wait_until
from tests.support.servers import serve_on_socket
from tests.tools import find_tool

FILTER = "echo.v1.EchoService/*{h:20;m:4},-echo.v1.EchoService/Join"
METADATA = [("key", "1"), ("some-bin", b"\0\xff"), ("cut", "x" * 20), ("grpc-trace-bin", b"t")]


def polite(request: Any) -> None:
    request.initial_metadata = [("early", "1")]
    request.trailing_metadata = [("late-bin", b"\0\xff")]


async def echo(message: EchoRequest, request: Any) -> EchoReply:
    polite(request)
    return EchoReply(message=message.message)


async def chat(messages: AsyncIterator[EchoRequest], request: Any) -> AsyncIterator[EchoReply]:
    polite(request)
    async for message in messages:
        yield EchoReply(message=message.message)


async def calls(path: Path) -> None:
    """A unary call and one that streams, with a log of our own beside the socket."""
    async with connect_to(f"unix:{path}") as channel:
        stub = channel.stub(EchoServiceStub)
        await stub.Echo(echo_request("hello"), metadata=METADATA)
        async with stub.Chat(metadata=METADATA) as call:
            for text in ("hi", "hello"):
                await call.send_message(echo_request(text))
                await call.receive_message()
            await call.close()
            assert await call.receive_message() is None


def facts(entry: Any) -> tuple[Any, ...]:
    """What has to be the same, whoever writes it."""
    found = Entry()
    found.CopyFrom(entry)
    for field in ("timestamp", "call_id", "sequence_id_within_call", "peer", "logger"):
        found.ClearField(field)
    found.client_header.ClearField("timeout")
    return entry_type(entry), found.SerializeToString(deterministic=True)


def each_call(entries: list[Any]) -> list[list[tuple[Any, ...]]]:
    """Of the unary call without its half-close, which grpc-go has where a handler asks for it."""
    ids = sorted({entry.call_id for entry in entries})
    unary, streaming = ([facts(e) for e in entries if e.call_id == each] for each in ids)
    return [[each for each in unary if each[0] != "CLIENT_HALF_CLOSE"], streaming]


class Go:
    """grpc-go's server; when it has ended, `entries` reads what it wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        environment = {**os.environ, "GRPC_BINARY_LOG_FILTER": FILTER}
        self._process = subprocess.Popen([find_tool("grpc-go-logging"), str(path)], env=environment)
        wait_until(path.exists)
        # It chooses the name itself.
        opened = []
        for descriptor in Path(f"/proc/{self._process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # It may be closed meanwhile.
                opened.append(descriptor.readlink())
        (self._log,) = (file for file in opened if "grpcgo_binarylog" in file.name)

    def entries(self) -> list[Any]:
        self._process.terminate()
        assert self._process.wait(20) == 0
        return read_entries(self._log)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._log.unlink()


@pytest.fixture
def go(short_dir: Path) -> Iterator[Go]:
    found = Go(short_dir / "go")
    yield found
    found.end()


async def test_the_same_calls_are_written_in_the_same_way(short_dir: Path, go: Go) -> None:
    async with open_binary_log(FILTER, short_dir / "ours") as to_go:
        await calls(go.path)
    async with open_binary_log(FILTER, short_dir / "both") as both:
        async with serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=echo, Chat=chat))):
            await calls(short_dir / "a")
    _, theirs = split_by_logger(go.entries())
    client, _ = split_by_logger(read_entries(to_go.path))
    _, server = split_by_logger(read_entries(both.path))
    # Of metadata grpc-go's order is by chance, and with it what a limit cuts off; the authority is
    # the name of a socket's file.
    for entries in (theirs, client, server):
        for entry in entries:
            if entry.HasField("client_header"):
                assert entry.payload_truncated
                assert ("grpc-trace-bin", b"t") in entry_metadata(entry) or entries is theirs
                entry.client_header.ClearField("metadata")
                entry.client_header.ClearField("authority")
    assert each_call(server) == each_call(theirs)
    assert each_call(client) == each_call(theirs)
