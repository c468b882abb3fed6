"""The path of a unary call down the client, and the states of a streaming call."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

import meshtrio
from meshtrio.client.channel import connect_to
from meshtrio.client.interceptors import ClientCall
from meshtrio.client.streaming import TRANSITIONS, CallState
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import CallbackServicer, echo_request, echo_requests
from tests.support.handlers import handle_repeat
from tests.support.servers import serve_on_socket

MAX_DEPTH = 12
"""Frames of ours from the stub's method to the system call, one inside the other."""
MAX_CLIENT_CALLS = 18
"""Functions of `meshtrio/client` that are called on the way down."""

_OWN = str(Path(meshtrio.__file__).parent)


async def echo(message: EchoRequest) -> EchoReply:
    return EchoReply(message=message.message)


ECHO_SERVICER = CallbackServicer(Echo=echo, Repeat=handle_repeat)


@asynccontextmanager
async def connect_to_echo(
    folder: Path, *interceptors: Any, servicer: Any = ECHO_SERVICER
) -> AsyncIterator[Any]:
    async with (
        serve_on_socket(folder / "a", Server(servicer)),
        connect_to(f"unix:{folder / 'a'}", interceptors=interceptors) as channel,
    ):
        yield channel.stub(EchoServiceStub)


async def test_a_unary_call_walks_few_frames_down_to_the_socket(short_dir: Path) -> None:
    calls: list[str] = []
    depths: list[int] = []

    def depth_of(frame: FrameType | None) -> int:
        found = 0
        while frame is not None:
            found += frame.f_code.co_filename.startswith(_OWN)
            frame = frame.f_back
        return found

    def profile(frame: FrameType, event: str, argument: Any) -> None:
        name = frame.f_code.co_filename
        if event == "call" and name.startswith(_OWN) and not depths:
            calls.append(name.removeprefix(_OWN).lstrip("/"))
            if frame.f_code.co_name == "try_send":
                depths.append(depth_of(frame))

    async with connect_to_echo(short_dir) as stub:
        await stub.Echo(echo_request("first"))
        before = sys.getprofile()
        sys.setprofile(profile)
        try:
            await stub.Echo(echo_request("x"))
        finally:
            sys.setprofile(before)
    assert depths[0] <= MAX_DEPTH
    assert sum(name.startswith("client/") for name in calls) <= MAX_CLIENT_CALLS


async def test_states_of_a_call_from_its_first_use_to_its_end(short_dir: Path) -> None:
    async with connect_to_echo(short_dir) as stub:
        call = stub.Repeat(RepeatRequest(message="x", count=1))
        states = [call.state]
        async with call:
            states.append(call.state)
            assert (await call.receive_message()).message == "x0"
            states.append(call.state)
            assert await call.receive_message() is None
            states.append(call.state)
            assert await call.receive_message() is None
            call.cancel()
        assert states == [CallState.IDLE, CallState.OPEN, CallState.COMMITTED, CallState.FINISHED]
        assert call.state is CallState.FINISHED
        name = f"unix:{short_dir / 'a'}"
        assert repr(call) == f"<StreamingCall /echo.v1.EchoService/Repeat to {name}: finished>"


async def test_a_call_that_was_cancelled_before_its_first_use_cannot_be_used(
    short_dir: Path,
) -> None:
    async with connect_to_echo(short_dir) as stub:
        call = stub.Chat()
        call.cancel()
        with pytest.raises(purerpc.CancelledError):
            await call.send_message(echo_request("x"))
        with pytest.raises(purerpc.CancelledError):
            await call.receive_message()


async def test_a_call_may_be_cancelled_while_it_starts(short_dir: Path) -> None:
    async with (
        connect_to(f"unix:{short_dir / 'nobody'}") as channel,
        trio.open_nursery() as nursery,
    ):
        call = channel.stub(EchoServiceStub).Chat()

        async def start() -> None:
            with pytest.raises(purerpc.CancelledError):
                await call.send_message(echo_request("x"))

        nursery.start_soon(start)
        await trio.testing.wait_all_tasks_blocked()
        assert call.state is CallState.STARTING
        call.cancel()
        async with serve_on_socket(short_dir / "nobody", Server(CallbackServicer())):
            with trio.fail_after(30):
                while nursery.child_tasks:
                    await trio.lowlevel.checkpoint()


def test_the_table_has_each_pair_that_can_be_and_no_other() -> None:
    assert set(TRANSITIONS) == set(CallState)
    assert all(CallState.FINISHED in following for following in TRANSITIONS.values())
    assert set(TRANSITIONS[CallState.FINISHED]) == {CallState.FINISHED}
    reachable = {CallState.IDLE}
    for _ in CallState:
        reachable.update(*(TRANSITIONS[state] for state in reachable))
    assert reachable == set(CallState)


@pytest.mark.parametrize("kind", ["unary", "stream"])
async def test_interceptors_are_on_one_path_for_all_kinds_of_calls(
    kind: str, short_dir: Path
) -> None:
    """One that suppresses a failure has no reply to give instead, so the failure is raised."""
    lines: list[str] = []

    @asynccontextmanager
    async def suppress(call: ClientCall) -> AsyncIterator[None]:
        lines.append("enter")
        try:
            yield
        except purerpc.UnimplementedError:
            lines.append("suppress")

    async with connect_to_echo(short_dir, suppress, servicer=CallbackServicer()) as stub:

        async def call() -> None:
            if kind == "unary":
                await stub.Echo(echo_request("a"))
            else:
                [reply async for reply in stub.Chat(echo_requests("a"))]

        with pytest.raises(purerpc.UnimplementedError):
            await call()
    assert lines == ["enter", "suppress"]
