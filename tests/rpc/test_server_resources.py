"""What a server or a connection holds: its tracers, its spare descriptors and what was read."""

from __future__ import annotations

import gc
from pathlib import Path

import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import connect_to
from meshtrio.http2.events import DataReceived
from meshtrio.plugin import current_call
from meshtrio.rpc.composite_tracer import use_tracers
from meshtrio.rpc.server import Server
from meshtrio.rpc.tracer import ServerTracer
from meshtrio.transport.acceptor import SpareDescriptors
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.servers import serve_on_socket


async def test_a_tracer_that_is_added_twice_is_removed_once_by_each_block() -> None:
    tracer = ServerTracer()
    with use_tracers(server=tracer):
        server = Server()
    with server.add_tracer(tracer), server.add_tracer(tracer):
        pass
    assert server.tracer is tracer


def test_closed_spare_descriptors_are_not_opened_again() -> None:
    spare = SpareDescriptors()
    spare.refill()
    spare.close()
    spare.refill()
    assert not spare.release()


async def test_an_idle_connection_keeps_nothing_of_what_it_read(short_dir: Path) -> None:
    async def echo(message: EchoRequest) -> EchoReply:
        return EchoReply(message=message.message)

    # Those in tracebacks that an earlier test has left; as objects, so that no id is used again.
    earlier = [each for each in gc.get_objects() if type(each) is DataReceived]
    async with serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=echo))):
        async with connect_to(f"unix:{short_dir / 'a'}") as channel:
            stub = channel.stub(EchoServiceStub)
            for size in (50_000, 200_000, 1_000_000):
                await stub.Echo(echo_request("x" * size))
                await trio.testing.wait_all_tasks_blocked()
                gc.collect()
                kept = [each for each in gc.get_objects() if type(each) is DataReceived]
                new = [each for each in kept if all(each is not other for other in earlier)]
                assert sum(len(each.data) for each in new) == 0


async def test_the_repr_of_a_context_says_whether_the_call_is_over(short_dir: Path) -> None:
    contexts = []

    async def echo(message: EchoRequest) -> EchoReply:
        contexts.append(current_call())
        return EchoReply(message=repr(current_call()))

    async with serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=echo))):
        async with connect_to(f"unix:{short_dir / 'a'}") as channel:
            reply = await channel.stub(EchoServiceStub).Echo(EchoRequest())
            await trio.testing.wait_all_tasks_blocked()
    assert "under way" in reply.message
    assert "over" in repr(contexts[0])
