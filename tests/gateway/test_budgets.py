"""What a gateway holds for a client is bounded, and what it passes on costs plugins no more."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.client.channel import connect_to
from meshtrio.http2 import frames
from meshtrio.http2.frames import FrameType
from meshtrio.http2.limits import Limits
from meshtrio.rpc.peer_accounts import PROCESS_MEMORY
from meshtrio.rpc.stream import Stream
from meshtrio.supervisor import events
from tests.support.connection_pairs import CallbackServicer, echo_reply, echo_request
from tests.support.gateways import run_gateway, server_with_reflection
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import echo_plugin_table
from tests.support.raw_calls import request_headers_frame

MIB = 1024 * 1024
LIMITS = Limits(connection_memory=2 * MIB, peer_memory=2 * MIB)
"""Half of it for replies."""
TARGET = (b"x-mesh-target", b"echo")


async def endless(message: RepeatRequest) -> AsyncIterator[EchoReply]:
    while True:
        yield echo_reply("x" * 30_000)


async def echo(message: EchoRequest) -> EchoReply:
    return echo_reply(message.message)


async def test_replies_that_a_client_does_not_read(short_dir: Path) -> None:
    """40 streams of replies are begun and not read. Most are ended, and other calls go on."""
    server = server_with_reflection(CallbackServicer(Repeat=endless, Echo=echo))
    async with run_gateway(short_dir, limits=LIMITS, echo=server) as behind:
        async with behind.connect_client(Limits(stream_window=65_535)) as channel:
            stub = channel.stub(EchoServiceStub)
            calls = [stub.Repeat(RepeatRequest(message="x")) for _ in range(40)]
            with trio.fail_after(120):
                for call in calls:
                    assert len((await call.receive_message()).message) == 30_000
                await trio.testing.wait_all_tasks_blocked(0.05)
                assert PROCESS_MEMORY.working < 12 * MIB
                answer = await behind.channel.stub(EchoServiceStub).Echo(echo_request("unharmed"))
                assert answer.message == "unharmed"
                over = sum([await ends_over_budget(call) for call in calls])
            assert over >= 30
        await behind.assert_nothing_left()
    assert (PROCESS_MEMORY.received, PROCESS_MEMORY.working) == (0, 0)


async def test_errors_of_a_mesh_name_the_key_of_its_config(short_dir: Path) -> None:
    config = "[mesh.gateway]\nmax_memory_per_peer = 2_097_152\n" + echo_plugin_table()
    async with run_mesh(config, short_dir) as observed:
        await observed.wait_for_event(events.Ready)
        address = f"unix:{observed.mesh.socket}"
        async with connect_to(address, limits=Limits(stream_window=65_535)) as channel:
            stub = channel.stub(EchoServiceStub)
            request = RepeatRequest(message="x" * 30_000, count=1_000)
            calls = [stub.Repeat(request) for _ in range(20)]
            with trio.fail_after(60):
                for call in calls:
                    await call.receive_message()
                with pytest.raises(purerpc.ResourceExhaustedError) as caught:
                    await read_all(calls)
            for call in calls:
                call.cancel()
    assert caught.value.status.status_message == (
        "replies buffered for the client exceed 524288 bytes for one connection "
        "(a quarter of [mesh.gateway] max_memory_per_peer)"
    )


async def read_all(calls: list[Any]) -> None:
    for call in calls:
        async for _ in call:
            pass


async def ends_over_budget(call: Any) -> bool:
    try:
        for _ in range(20):
            await call.receive_message()
    except purerpc.ResourceExhaustedError as exc:
        return exc.status.status_message == (
            "replies buffered for the client exceed 1048576 bytes for one connection "
            "(half of connection_memory)"
        )
    call.cancel()
    return False


async def test_requests_that_a_plugin_does_not_take(short_dir: Path) -> None:
    async def waits(messages: AsyncIterator[EchoRequest]) -> EchoReply:
        await trio.sleep_forever()
        return echo_reply("")

    async def texts() -> AsyncIterator[EchoRequest]:
        while True:
            yield echo_request("x" * 30_000)

    server = server_with_reflection(CallbackServicer(Join=waits, Echo=echo))
    async with run_gateway(short_dir, limits=LIMITS, echo=server) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        errors: list[str] = []

        async def one() -> None:
            try:
                await stub.Join(texts())
            except purerpc.ResourceExhaustedError as exc:
                errors.append(exc.status.status_message)

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert len(errors) >= 10
            text = (
                "requests buffered for plugins exceed 1048576 bytes for one connection "
                "(half of connection_memory)"
            )
            assert set(errors) == {text}
            assert (await stub.Echo(echo_request("unharmed"))).message == "unharmed"
            nursery.cancel_scope.cancel()
        await behind.assert_nothing_left()
    assert (PROCESS_MEMORY.received, PROCESS_MEMORY.working) == (0, 0)


async def test_data_of_one_byte_each_is_put_together(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """1,000 frames, of two calls by turns, reach the plugin in few."""
    arrived: list[int] = []
    on_data = Stream.on_data

    def counting(stream: Stream, data: bytes, end_stream: bool) -> None:
        arrived.append(len(data))
        on_data(stream, data, end_stream)

    async def sizes(messages: AsyncIterator[EchoRequest]) -> EchoReply:
        return echo_reply(str([len(message.message) async for message in messages]))

    message = EchoRequest(message="x" * 492).SerializeToString()
    raw = bytes(1) + len(message).to_bytes(4, "big") + message
    parts = [request_headers_frame(n, TARGET, path=b"/echo.v1.EchoService/Join") for n in (1, 3)]
    parts += [frames.encode_frame(FrameType.DATA, 0, n, bytes((b,))) for b in raw for n in (1, 3)]
    parts += [frames.encode_frame(FrameType.DATA, frames.END_STREAM, n) for n in (1, 3)]
    async with run_gateway(
        short_dir, echo=server_with_reflection(CallbackServicer(Join=sizes, Echo=echo))
    ) as behind:
        await behind.channel.stub(EchoServiceStub).Echo(echo_request("connects the two"))
        monkeypatch.setattr(Stream, "on_data", counting)
        async with await trio.open_unix_socket(short_dir / "mesh.sock") as stream:
            await stream.send_all(frames.PREFACE + frames.settings({}) + b"".join(parts))
            received = b""
            with trio.fail_after(60):
                while received.count(b"[492]") < 2:
                    received += await stream.receive_some(65536)
    assert 2 <= len(arrived) <= 200
