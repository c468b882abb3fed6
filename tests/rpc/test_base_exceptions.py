"""Exceptions that are not an Exception, raised by handlers, interceptors, tracers and iterables."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.client.channel import connect_to
from meshtrio.errors import ConnectionLostError
from meshtrio.rpc import tracer
from meshtrio.rpc.composite_tracer import use_tracers
from meshtrio.rpc.server import Server
from meshtrio.transport.listener import unix_listener
from tests.support.connection_pairs import (
    CallbackServicer,
    ConnectionPair,
    connect_pair,
    echo_reply,
    echo_request,
)

STATUS_TEXT = "the handler failed"


class OwnError(BaseException):
    """A BaseException, as some frameworks have one to get past `except Exception`."""


async def raise_in_nursery(error: BaseException) -> None:
    async def fail() -> None:
        raise error

    async with trio.open_nursery() as nursery:
        nursery.start_soon(fail)
        nursery.start_soon(trio.sleep_forever)


async def raise_in_thread(error: BaseException) -> None:
    def fail() -> None:
        raise error

    await trio.to_thread.run_sync(fail)


async def raise_directly(error: BaseException) -> None:
    raise error


async def raise_while_cancelled(error: BaseException) -> None:
    with trio.move_on_after(0):
        try:
            await trio.sleep_forever()
        finally:
            raise error


WAYS = [raise_directly, raise_in_nursery, raise_in_thread, raise_while_cancelled]
ERRORS = [asyncio.CancelledError("loop"), GeneratorExit(), OwnError("mine")]


async def run_bystander(pair: ConnectionPair, done: trio.Event) -> None:
    async with pair.stub.Chat() as call:
        await call.send_message(echo_request("before"))
        assert (await call.receive_message()).message == "before"
        done.set()
        await trio.testing.wait_all_tasks_blocked(0.02)
        await call.send_message(echo_request("after"))
        assert (await call.receive_message()).message == "after"


async def chat(messages: AsyncIterator[EchoRequest]) -> AsyncIterator[EchoReply]:
    async for message in messages:
        yield echo_reply(message.message)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
async def test_it_fails_the_call_of_its_handler_alone(
    way: Callable[[BaseException], Any],
    error: BaseException,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def echo(message: EchoRequest) -> EchoReply:
        await way(error)
        return echo_reply("")

    async def repeat(message: RepeatRequest) -> AsyncIterator[EchoReply]:
        yield echo_reply("one")
        await way(error)

    async def join(messages: AsyncIterator[EchoRequest]) -> EchoReply:
        async for _ in messages:
            await way(error)
        return echo_reply("")

    servicer = CallbackServicer(Echo=echo, Repeat=repeat, Join=join, Chat=chat)
    async with connect_pair(servicer) as pair, trio.open_nursery() as nursery:
        ready = trio.Event()
        nursery.start_soon(run_bystander, pair, ready)
        await ready.wait()
        for call in (
            lambda: pair.stub.Echo(echo_request("hi")),
            lambda: collect_replies(pair.stub.Repeat(RepeatRequest(message="hi", count=1))),
            lambda: pair.stub.Join(of(echo_request("hi"))),
        ):
            with pytest.raises(purerpc.UnknownError, match=STATUS_TEXT):
                await call()
        await pair.wait_until_idle()
    for method in ("Echo", "Repeat", "Join"):
        assert f"/echo.v1.EchoService/{method}: the handler raised" in caplog.text
    assert type(error).__name__ in caplog.text


async def collect_replies(call: Any) -> list[Any]:
    return [answer async for answer in call]


async def of(*messages: EchoRequest) -> AsyncIterator[EchoRequest]:
    for message in messages:
        yield message


async def test_it_fails_the_call_of_its_handler_when_that_is_cancelled() -> None:
    """A clean-up that raises while the caller's deadline ends the handler."""

    async def echo(message: EchoRequest) -> EchoReply:
        try:
            await trio.sleep_forever()
        finally:
            raise OwnError("in the clean-up")

    async with connect_pair(CallbackServicer(Echo=echo, Chat=chat)) as pair:
        with trio.move_on_after(0.2) as scope:
            await pair.stub.Echo(echo_request("hi"))
        assert scope.cancelled_caught
        await pair.wait_until_idle()
        async with pair.stub.Chat() as call:
            await call.send_message(echo_request("still"))
            assert (await call.receive_message()).message == "still"
        await pair.wait_until_idle()
        pair.assert_nothing_left()


async def test_a_generator_that_raises_as_it_is_closed() -> None:
    async def repeat(message: RepeatRequest) -> AsyncIterator[EchoReply]:
        try:
            yield "no reply"  # type: ignore[misc]
        finally:
            raise OwnError("in aclose")

    async with connect_pair(CallbackServicer(Repeat=repeat)) as pair:
        with pytest.raises(purerpc.UnknownError):
            await collect_replies(pair.stub.Repeat(RepeatRequest(message="hi", count=1)))
        pair.assert_nothing_left()


# -- interceptors and tracers --------------------------------------------------------------------


@asynccontextmanager
async def serve_and_connect(folder: Path, server: Server) -> AsyncIterator[Any]:
    async with trio.open_nursery() as nursery:
        with unix_listener(str(folder / "socket")) as listener:
            await nursery.start(server.serve, listener)
            async with connect_to(f"unix:{folder / 'socket'}") as channel:
                yield channel.stub(EchoServiceStub)
        nursery.cancel_scope.cancel()


async def echo(message: EchoRequest) -> EchoReply:
    return echo_reply(message.message)


@pytest.mark.parametrize("late", [False, True])
async def test_interceptors_of_a_server(late: bool, short_dir: Path) -> None:
    @asynccontextmanager
    async def broken(call: Any) -> AsyncIterator[None]:
        if not late:
            raise OwnError("before")
        yield
        raise OwnError("after")

    server = Server(CallbackServicer(Echo=echo), interceptors=[broken])
    async with serve_and_connect(short_dir, server) as stub:
        for _ in range(2):
            with pytest.raises(purerpc.UnknownError, match=STATUS_TEXT):
                await stub.Echo(echo_request("hi"))


@pytest.mark.parametrize("step", ["begin", "enter", "ended"])
@pytest.mark.parametrize("error", [OwnError("mine"), RuntimeError("a bug")])
async def test_tracers(
    step: str, error: BaseException, short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Tracer(tracer.ServerTracer, tracer.ServerCallTracer):
        def start_call(self, *_: Any) -> tracer.ServerCallTracer:
            self._fail("begin")
            return self

        def before_handler(self) -> None:
            self._fail("enter")

        def call_ended(self, status: tracer.CallStatus) -> None:
            self._fail("ended")

        def _fail(self, here: str) -> None:
            if here == step:
                raise error

    with use_tracers(server=Tracer()):
        async with serve_and_connect(short_dir, Server(CallbackServicer(Echo=echo))) as stub:
            for _ in range(2):
                assert (await stub.Echo(echo_request("hi"))).message == "hi"
    assert "/echo.v1.EchoService/Echo: call tracer raised" in caplog.text


# -- SystemExit and KeyboardInterrupt ------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
async def test_an_exit_drains_the_server_and_is_raised_by_it(
    way: Callable[[BaseException], Any], error: BaseException, short_dir: Path
) -> None:
    begun, go_on, exiting = trio.Event(), trio.Event(), trio.Event()

    async def echo(message: EchoRequest) -> EchoReply:
        if message.message == "exit":
            await way(error)
        begun.set()
        await go_on.wait()
        return echo_reply("finished")

    server = Server(CallbackServicer(Echo=echo))

    async def stop() -> None:
        exiting.set()
        await server.drain(5)

    server.on_exit = stop
    failures: list[BaseException] = []

    async def exit_call(stub: Any) -> None:
        with pytest.raises(ConnectionLostError) as caught:
            await stub.Echo(echo_request("exit"))
        failures.append(caught.value)

    async def finished(stub: Any) -> None:
        assert (await stub.Echo(echo_request("finish"))).message == "finished"

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        with unix_listener(str(short_dir / "socket")) as listener:
            with pytest.raises(type(error)) as caught:
                await server.serve(listener, task_status=task_status)
            assert caught.value is error

    async with trio.open_nursery() as nursery:
        await nursery.start(serve)
        async with connect_to(f"unix:{short_dir / 'socket'}") as channel:
            stub = channel.stub(EchoServiceStub)
            async with trio.open_nursery() as calls:
                calls.start_soon(finished, stub)
                await begun.wait()
                calls.start_soon(exit_call, stub)
                await exiting.wait()
                go_on.set()
    assert len(failures) == 1


async def test_calls_that_an_exit_cuts_get_no_status(short_dir: Path) -> None:
    async def echo(message: EchoRequest) -> EchoReply:
        if message.message == "exit":
            raise SystemExit(3)
        await trio.sleep_forever()
        raise AssertionError

    server = Server(CallbackServicer(Echo=echo))

    async def call(stub: Any, text: str) -> None:
        with pytest.raises(ConnectionLostError):
            await stub.Echo(echo_request(text))

    async def calls() -> None:
        async with serve_and_connect(short_dir, server) as stub, trio.open_nursery() as nursery:
            nursery.start_soon(call, stub, "long")
            await trio.testing.wait_all_tasks_blocked(0.02)
            nursery.start_soon(call, stub, "exit")

    with pytest.raises(BaseExceptionGroup) as caught:
        await calls()
    assert caught.value.subgroup(SystemExit) is not None


# -- the client ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [*ERRORS, SystemExit(3), KeyboardInterrupt()], ids=lambda error: type(error).__name__
)
@pytest.mark.parametrize("way", WAYS)
async def test_what_a_callers_iterable_raises_is_raised_at_its_caller(
    way: Callable[[BaseException], Any], error: BaseException
) -> None:
    async def requests() -> AsyncIterator[EchoRequest]:
        yield echo_request("one")
        await way(error)

    async def join(messages: AsyncIterator[EchoRequest]) -> EchoReply:
        return echo_reply(" ".join([message.message async for message in messages]))

    async with (
        connect_pair(CallbackServicer(Join=join, Chat=chat)) as pair,
        trio.open_nursery() as nursery,
    ):
        ready = trio.Event()
        nursery.start_soon(run_bystander, pair, ready)
        await ready.wait()
        with pytest.raises(type(error)):
            await pair.stub.Join(requests())
        with pytest.raises(type(error)):
            await collect_replies(pair.stub.Chat(requests()))
        await pair.wait_until_idle()


@pytest.mark.parametrize("late", [False, True])
async def test_interceptors_of_a_client(late: bool, short_dir: Path) -> None:
    @asynccontextmanager
    async def broken(call: Any) -> AsyncIterator[None]:
        if not call.metadata:
            yield
            return
        if not late:
            raise OwnError("before")
        yield
        raise OwnError("after")

    with unix_listener(str(short_dir / "socket")) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(Server(CallbackServicer(Echo=echo, Chat=chat)).serve, listener)
            path = f"unix:{short_dir / 'socket'}"
            async with connect_to(path, interceptors=[broken]) as channel:
                stub = channel.stub(EchoServiceStub)
                async with stub.Chat() as bystanding:
                    with pytest.raises(OwnError):
                        await stub.Echo(echo_request("hi"), metadata=[("k", "v")])
                    with pytest.raises(OwnError):
                        await collect_replies(
                            stub.Chat(of(echo_request("hi")), metadata=[("k", "v")])
                        )
                    await bystanding.send_message(echo_request("still"))
                    assert (await bystanding.receive_message()).message == "still"
            nursery.cancel_scope.cancel()
