"""What one caller, or one plugin, does in a gateway harms no other."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.discovery.endpoint import Endpoint, ExitInfo
from meshtrio.gateway import downstream_stream, router
from meshtrio.gateway.proxied_call import ProxiedCall
from meshtrio.grpc.framing import frame_message
from meshtrio.http2 import frames
from meshtrio.http2.limits import Limits
from meshtrio.messages import reflection_v1
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.server import Server
from tests.support.connection_pairs import (
    CallbackServicer,
    ConnectionPair,
    connect_pair,
    echo_reply,
    echo_request,
    echo_requests,
)
from tests.support.gateways import make_echo_server, run_gateway, server_with_reflection
from tests.support.raw_calls import connect_raw_socket, encode_request_headers, send_all

ECHO = "echo.v1.EchoService"


def a_call(method: str, number: int, text: str, flags: int = frames.END_STREAM) -> bytes:
    message = frame_message(echo_request(text).SerializeToString())
    begin = frames.encode_frame(1, frames.END_HEADERS, number, encode_request_headers(method))
    return begin + frames.encode_frame(0, flags, number, message)


async def test_a_plugin_that_answers_early_again_and_again_keeps_its_connection(
    short_dir: Path,
) -> None:
    """It ends each call with RST_STREAM, since the request is not over."""
    answered = 0

    async def hasty(messages: AsyncIterator[EchoRequest]) -> EchoReply:
        nonlocal answered
        answered += 1
        raise purerpc.AlreadyExistsError("early")

    async with run_gateway(
        short_dir, {"a": [ECHO]}, a=Server(CallbackServicer(Join=hasty))
    ) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        with pytest.raises(purerpc.AlreadyExistsError):
            await stub.Join(echo_requests("first"))
        (connection,) = behind.upstream_connections()
        async with connect_raw_socket(behind) as peer, trio.open_nursery() as nursery:
            nursery.start_soon(_read_all, peer)
            for number in range(1, 3001, 2):
                await send_all(peer, a_call("Join", number, "x", flags=0))
            with trio.fail_after(30):
                while answered < 1501:
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert behind.upstream_connections() == [connection]
        assert connection.is_usable


async def _read_all(peer: trio.socket.SocketType) -> None:
    while await peer.recv(65536):
        pass


async def test_a_server_does_not_count_the_resets_of_whom_it_trusts() -> None:
    begun = trio.Event()

    async def hang(message: EchoRequest) -> EchoReply:
        begun.set()
        await trio.sleep_forever()
        return echo_reply("never")

    async def give_up_a_call(pair: ConnectionPair) -> None:
        nonlocal begun
        begun = trio.Event()
        async with trio.open_nursery() as nursery:

            async def call() -> None:
                with contextlib.suppress(purerpc.RpcFailedError):
                    await pair.stub.Echo(echo_request("x"))
                begun.set()

            nursery.start_soon(call)
            await begun.wait()
            nursery.cancel_scope.cancel()
        await pair.wait_until_idle()

    limits = Limits(reset_burst=5, reset_rate=0)
    for trusted in (None, os.getpid()):
        async with connect_pair(
            CallbackServicer(Echo=hang), server_limits=limits, trusted_pid=trusted
        ) as pair:
            for _ in range(10):
                await give_up_a_call(pair)
            assert pair.client.is_usable is (trusted is not None)


@pytest.mark.parametrize("size", range(1700, 1860, 8))
async def test_a_deadline_does_not_make_a_head_too_large(size: int, short_dir: Path) -> None:
    async def echo(message: EchoRequest) -> EchoReply:
        return echo_reply(message.message)

    little = Server(CallbackServicer(Echo=echo), limits=Limits(max_header_list_size=2048))
    async with run_gateway(short_dir, {"a": [ECHO]}, a=little) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        await stub.Echo(echo_request("first"))
        (connection,) = behind.upstream_connections()
        with trio.fail_after(30):
            with contextlib.suppress(purerpc.ResourceExhaustedError):
                await stub.Echo(echo_request("x"), metadata=[("k", "v" * (size - 250))])
        assert behind.upstream_connections() == [connection]
        assert connection.is_usable


async def test_a_call_that_is_given_up_while_it_waits_is_never_made(short_dir: Path) -> None:
    begun = trio.Event()
    seen: list[str] = []

    async def slow(message: EchoRequest) -> EchoReply:
        seen.append(message.message)
        begun.set()
        if message.message == "first":
            await trio.sleep_forever()
        return echo_reply(message.message)

    one = Limits(max_concurrent_streams=1)
    async with run_gateway(short_dir, {"a": [ECHO]}) as behind:
        async with (
            behind.serve_endpoint("a", Server(CallbackServicer(Echo=slow), limits=one)),
            connect_raw_socket(behind) as peer,
        ):
            await send_all(peer, a_call("Echo", 1, "first"))
            await begun.wait()
            await send_all(peer, a_call("Echo", 3, "second"))
            await trio.testing.wait_all_tasks_blocked(0.02)
            (second,) = (
                s for c in behind.server.connections for n, s in c.streams.items() if n == 3
            )
            assert isinstance(second, ProxiedCall)
            # In one read: what makes room for the second, and the end of it.
            await send_all(peer, frames.rst_stream(1, 8) + frames.rst_stream(3, 8))
            await trio.testing.wait_all_tasks_blocked(0.02)
            # Should it be woken all the same, it opens nothing.
            channel = behind.gateway.channels["a"].channel
            target = channel.picker.try_pick()
            assert target is not None
            assert second.open_upstream(channel, target)
            assert [c.streams for c in behind.upstream_connections()] == [{}]
            with trio.fail_after(30):
                reply_to_third = await behind.channel.stub(EchoServiceStub).Echo(
                    echo_request("third")
                )
            assert reply_to_third.message == "third"
            assert seen == ["first", "third"]
            await behind.assert_nothing_left()


async def test_a_place_that_one_caller_cannot_use_is_given_to_the_next(short_dir: Path) -> None:
    begun, go_on = trio.Event(), trio.Event()

    async def slow(message: EchoRequest) -> EchoReply:
        if message.message == "first":
            begun.set()
            await go_on.wait()
        return echo_reply(message.message)

    limits = Limits(max_concurrent_streams=1, max_header_list_size=2048)
    async with run_gateway(short_dir, {"a": [ECHO]}) as behind:
        async with behind.serve_endpoint("a", Server(CallbackServicer(Echo=slow), limits=limits)):
            stub = behind.channel.stub(EchoServiceStub)
            answered = []

            async def call(text: str, **options: Any) -> None:
                try:
                    answered.append((await stub.Echo(echo_request(text), **options)).message)
                except purerpc.ResourceExhaustedError:
                    answered.append("refused")

            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(call, "first")
                    await begun.wait()
                    await call("second", metadata=[("much", "x" * 4000)])
                    nursery.start_soon(call, "third")
                    await trio.testing.wait_all_tasks_blocked(0.02)
                    go_on.set()
            assert sorted(answered) == ["first", "refused", "third"]


async def test_a_plugin_whose_reflection_hangs_costs_one_question(short_dir: Path) -> None:
    async def echo(message: EchoRequest) -> EchoReply:
        return echo_reply(message.message)

    server = server_with_reflection(CallbackServicer(Echo=echo))
    server.handler_table.add_lazy_servicer("grpc.reflection.v1.ServerReflection", HangingReflection)
    async with run_gateway(short_dir, {"a": [ECHO]}, a=server) as behind:
        stub = behind.channel.stub(EchoServiceStub)
        with trio.fail_after(30):
            for _ in range(300):
                await stub.Echo(echo_request("x"))
        nursery = behind.gateway._nursery
        assert nursery is not None
        assert len(nursery.child_tasks) < 5


class HangingReflection:
    def __init__(self) -> None:
        found = reflection_v1.DESCRIPTOR.services_by_name["ServerReflection"]
        self.service = service_from_descriptor(found, self)

    async def ServerReflectionInfo(self, messages: Any) -> AsyncIterator[Any]:
        await trio.sleep_forever()
        yield None


async def test_channels_of_services_that_are_gone_are_closed(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(router, "_ORPHAN_CHECK_INTERVAL", 0.05)
    async with run_gateway(short_dir, a=make_echo_server()) as behind:
        for number in range(20):
            name = f"s{number}"
            endpoint = Endpoint(f"e{number}", f"unix:{short_dir / 'nowhere'}")
            behind.registry.register(name, endpoint)
            with trio.move_on_after(0.005):
                await behind.channel.stub(EchoServiceStub).Echo(
                    echo_request("x"), metadata=[("x-mesh-target", name)]
                )
            behind.registry.deregister(name, ExitInfo(endpoint.id, "gone"))
        with trio.fail_after(30):
            while len(behind.gateway.channels) > 1:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.01)
        assert (await behind.channel.stub(EchoServiceStub).Echo(echo_request("x"))).message == "x"


async def test_names_that_anybody_may_register_do_not_count_as_authority(short_dir: Path) -> None:
    async with run_gateway(short_dir, a=make_echo_server()) as behind:
        endpoint = Endpoint("e", f"unix:{short_dir / 'nowhere'}")
        behind.registry.register("localhost", endpoint)
        async with behind.connect_with_authority("localhost") as channel:
            with trio.fail_after(30):
                joined = await channel.stub(EchoServiceStub).Join(echo_requests("a", "b"))
        assert joined.message == "a b"


async def test_who_has_only_registered_has_no_say_beside_a_plugin(short_dir: Path) -> None:
    async with run_gateway(short_dir) as behind:
        behind.registry.add_service("plugin.a")
        async with behind.serve_endpoint("evil", make_echo_server()):
            # As what has only registered itself.
            behind.registry.remove_service("evil")
            stub = behind.channel.stub(EchoServiceStub)
            with pytest.raises(purerpc.UnavailableError, match=r"not ready yet: plugin\.a"):
                await stub.Echo(echo_request("x"))
            async with behind.serve_endpoint("plugin.a", make_echo_server()) as server:
                assert (await stub.Echo(echo_request("x"))).message == "x"
                assert server.load_recorder.started == 1


async def test_pieces_of_a_byte_each_are_kept_as_few(short_dir: Path) -> None:
    """And padding, which is nothing at all, is not kept."""
    async with run_gateway(short_dir, {"a": [ECHO]}) as behind:
        behind.registry.add_service("a")
        async with connect_raw_socket(behind) as peer:
            await send_all(
                peer, frames.encode_frame(1, frames.END_HEADERS, 1, encode_request_headers("Join"))
            )
            message = frame_message(echo_request("x" * 3000).SerializeToString())
            for number in range(0, len(message), 500):
                some = message[number : number + 500]
                pieces = [frames.encode_frame(0, 0, 1, bytes((byte,))) for byte in some]
                padding = frames.encode_frame(0, frames.PADDED, 1, b"\x09" + b"\x00" * 9)
                await send_all(peer, b"".join(pieces) + padding)
                await trio.testing.wait_all_tasks_blocked(0.002)
            (stream,) = (s for c in behind.server.connections for s in c.streams.values())
            assert isinstance(stream, ProxiedCall)
            assert stream.replay_buffer is not None
            assert b"".join(stream.replay_buffer) == message
            assert len(stream.replay_buffer) == 1


async def test_a_caller_who_never_reads_is_given_up(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downstream_stream, "MAX_UNREAD_SIZE", 300_000)
    async with (
        run_gateway(short_dir, a=make_echo_server()) as behind,
        connect_raw_socket(behind) as peer,
    ):
        assert (await behind.channel.stub(EchoServiceStub).Echo(echo_request("hi"))).message == "hi"
        with trio.fail_after(30), contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for number in range(1, 200_000, 2):
                await send_all(peer, a_call("NoSuch", number, ""))
        assert (await behind.channel.stub(EchoServiceStub).Echo(echo_request("hi"))).message == "hi"
        assert number < 199_999
        await behind.assert_nothing_left()
