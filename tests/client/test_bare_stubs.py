"""Stubs of purerpc that are made without `channel.stub`: `EchoServiceStub(channel)`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import purerpc
import pytest
import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest
from purerpc.wrappers import ClientStubUnaryUnary

from meshtrio.client.channel import connect_to
from meshtrio.rpc.server import Server
from tests import ROOT
from tests.support.connection_pairs import echo_reply, echo_request, echo_requests
from tests.support.purerpc_echo_grpc import EchoServiceServicer, EchoServiceStub
from tests.support.servers import serve_on_socket


@attrs.define
class Recorder:
    """A bare stub, and how its calls ended in their handlers."""

    stub: Any = None
    metadata: list[Any] = attrs.field(factory=list)
    ended: list[str] = attrs.field(factory=list)
    changed: trio.Event = attrs.field(factory=trio.Event)
    begun: trio.Event = attrs.field(factory=trio.Event)

    @asynccontextmanager
    async def noting(self) -> AsyncIterator[None]:
        self.begun.set()
        try:
            yield
        except (trio.Cancelled, GeneratorExit):  # A generator is closed where it has yielded.
            self._note("cancelled")
            raise
        self._note("done")

    def _note(self, how: str) -> None:
        self.ended.append(how)
        self.changed.set()
        self.changed = trio.Event()

    async def until_ended(self, count: int) -> list[str]:
        with trio.fail_after(30):
            while len(self.ended) < count:
                await self.changed.wait()
        return self.ended


class RecordingServicer(EchoServiceServicer):
    """Does as the messages say, and records how its calls end."""

    def __init__(self, seen: Recorder) -> None:
        self._seen = seen

    async def Echo(self, message: Any, request: Any) -> Any:
        self._seen.metadata = list(request.custom_metadata)
        async with self._seen.noting():
            await obey(message.message)
            return echo_reply(message.message)

    async def Repeat(self, message: Any) -> AsyncIterator[Any]:
        async with self._seen.noting():
            for number in range(message.count):
                yield echo_reply(f"{message.message}{number}")
            await obey(message.message)

    async def Join(self, messages: Any) -> Any:
        async with self._seen.noting():
            texts = []
            async for message in messages:
                await obey(message.message)
                texts.append(message.message)
            return echo_reply(" ".join(texts))

    async def Chat(self, messages: Any) -> AsyncIterator[Any]:
        async with self._seen.noting():
            async for message in messages:
                await obey(message.message)
                yield echo_reply(message.message)


async def obey(text: str) -> None:
    if text == "hang":
        await trio.sleep_forever()
    if text == "fail":
        raise purerpc.NotFoundError("as it was asked to")


@pytest.fixture
async def seen(short_dir: Path) -> AsyncIterator[Recorder]:
    found = Recorder()
    async with serve_on_socket(short_dir / "a", Server(RecordingServicer(found))):
        async with connect_to(f"unix:{short_dir / 'a'}") as channel:
            found.stub = EchoServiceStub(channel)
            yield found


async def endless() -> AsyncIterator[Any]:
    yield echo_request("first")
    await trio.sleep_forever()


async def failing() -> AsyncIterator[Any]:
    yield echo_request("first")
    raise ZeroDivisionError


async def texts_of(call: Any) -> list[str]:
    return [each.message async for each in call]


async def test_all_four_kinds(seen: Recorder) -> None:
    stub = seen.stub
    assert (await stub.Echo(echo_request("a"))).message == "a"
    assert await texts_of(stub.Repeat(RepeatRequest(message="r", count=2))) == ["r0", "r1"]
    assert (await stub.Join(echo_requests("a", "b"))).message == "a b"
    assert await texts_of(stub.Chat(echo_requests("a", "b"))) == ["a", "b"]
    assert await seen.until_ended(4) == ["done"] * 4


async def test_metadata_goes_along(seen: Recorder) -> None:
    await seen.stub.Echo(echo_request("a"), metadata=(("key", "value"),))
    assert ("key", "value") in seen.metadata


async def test_a_stream_that_is_talked_to(seen: Recorder) -> None:
    stream = await seen.stub.Chat()
    for text in "ab":
        await stream.send_message(echo_request(text))
        assert (await stream.receive_message()).message == text
    await stream.close()
    assert await stream.receive_message() is None


@pytest.mark.parametrize("kind", ["Echo", "Join", "Chat"])
async def test_a_method_of_any_kind_as_a_stream(seen: Recorder, kind: str) -> None:
    stream = await seen.stub._client.rpc(kind, EchoRequest, EchoReply, metadata=[("a", "b")])
    await stream.send_message(echo_request("a"))
    await stream.close()
    assert (await stream.receive_message()).message == "a"
    assert await stream.receive_message() is None


async def test_leaving_a_loop_early_cancels_the_call(seen: Recorder) -> None:
    async with seen.stub.Repeat(RepeatRequest(message="hang", count=3)) as call:
        async for each in call:
            assert each.message == "hang0"
            break
    assert await seen.until_ended(1) == ["cancelled"]
    async with seen.stub.Chat(endless()) as call:
        async for _ in call:
            break
    assert await seen.until_ended(2) == ["cancelled"] * 2
    async with aclosing(seen.stub.Chat(endless())) as replies:
        assert (await anext(replies)).message == "first"
    assert await seen.until_ended(3) == ["cancelled"] * 3


@pytest.mark.parametrize("kind", ["Echo", "Repeat", "Join", "Chat"])
async def test_a_status_is_raised_as_it_is(seen: Recorder, kind: str) -> None:
    call = {
        "Echo": lambda: seen.stub.Echo(echo_request("fail")),
        "Repeat": lambda: texts_of(seen.stub.Repeat(RepeatRequest(message="fail", count=1))),
        "Join": lambda: seen.stub.Join(echo_requests("a", "fail")),
        "Chat": lambda: texts_of(seen.stub.Chat(echo_requests("a", "fail"))),
    }[kind]
    with pytest.raises(purerpc.NotFoundError):
        await call()


async def test_what_the_requests_raise_is_raised_as_it_is(seen: Recorder) -> None:
    with pytest.raises(ZeroDivisionError):
        await seen.stub.Join(failing())
    with pytest.raises(ZeroDivisionError):
        await texts_of(seen.stub.Chat(failing()))


@pytest.mark.parametrize("kind", ["Echo", "Repeat", "Join", "Chat"])
async def test_a_caller_that_is_cancelled_cancels_the_handler(seen: Recorder, kind: str) -> None:
    call = {
        "Echo": lambda: seen.stub.Echo(echo_request("hang")),
        "Repeat": lambda: texts_of(seen.stub.Repeat(RepeatRequest(message="hang", count=1))),
        "Join": lambda: seen.stub.Join(endless()),
        "Chat": lambda: texts_of(seen.stub.Chat(endless())),
    }[kind]
    scope = trio.CancelScope()

    async def call_in_scope() -> None:
        with scope:
            await call()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(call_in_scope)
        with trio.fail_after(30):
            await seen.begun.wait()
        scope.cancel()
    assert scope.cancelled_caught
    assert await seen.until_ended(1) == ["cancelled"]


async def test_a_server_that_goes_fails_the_calls_under_way(short_dir: Path) -> None:
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:

        async def serve(task_status: trio.TaskStatus[None]) -> None:
            with scope:
                async with serve_on_socket(short_dir / "a", Server(RecordingServicer(Recorder()))):
                    task_status.started()
                    await trio.sleep_forever()

        await nursery.start(serve)
        async with connect_to(f"unix:{short_dir / 'a'}") as channel:
            replies = EchoServiceStub(channel).Chat(endless())
            await anext(replies)
            scope.cancel()
            with pytest.raises(purerpc.UnavailableError):
                await anext(replies)


async def test_stubs_for_channels_of_purerpc_are_as_they_were() -> None:
    stub = EchoServiceStub(purerpc.insecure_channel("localhost", 0))
    assert isinstance(stub.Echo, ClientStubUnaryUnary)


def test_a_program_that_serves_nothing_has_stubs_of_purerpc() -> None:
    """What serves has imported more of meshtrio than a client does."""
    program = """
from echo.v1.echo_grpc import EchoServiceStub
import trio
from meshtrio import mesh
from meshtrio.client.channel import connect_to

async def main():
    async with connect_to("unix:/nowhere") as channel:
        for stub in (channel.stub(EchoServiceStub), EchoServiceStub(channel)):
            assert type(stub.Echo).__module__.startswith("meshtrio"), stub.Echo

trio.run(main)
"""
    folder = str(ROOT / "examples" / "echo-plugin")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), folder])}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)
