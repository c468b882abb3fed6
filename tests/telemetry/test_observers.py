"""Several who follow the same calls, and none of what they are told left out."""

from __future__ import annotations

import math
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
import trio.testing
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest, RepeatRequest

from meshtrio.client.channel import Channel, connect_to
from meshtrio.client.multicallable import make_multicallable
from meshtrio.rpc import channelz_registry, tracer, tracer_dispatch
from meshtrio.rpc.composite_tracer import use_tracers
from meshtrio.rpc.method import Method
from meshtrio.rpc.server import Server
from meshtrio.rpc.tracer import current_tracers
from meshtrio.util.token_bucket import TokenBucket
from tests.support.connection_pairs import CallbackServicer, echo_request, echo_requests
from tests.support.handlers import ECHO_SERVICER
from tests.support.servers import serve_on_socket


class RecordingTracer(tracer.ServerTracer, tracer.ClientTracer):
    """Records all that it is called with; with `messages`, of messages as well."""

    def __init__(self, *, messages: bool = False) -> None:
        self.lines: list[str] = []
        self.messages = messages

    def start_call(self, *arguments: Any) -> Any:
        if not arguments:
            self.lines.append("call")
            return Call(self)
        _, method, stream = arguments
        self.lines.append(f"served {method.name}")
        watch = RecordingCallTracer(self, "server")
        if self.messages:
            stream.message_tracer = watch
        return watch

    def call_rejected(self, headers: Any, status: tracer.CallStatus) -> None:
        self.lines.append(f"refused {headers.path} {status[0]}")

    def trace_method(self, target: str, method: Any) -> tracer.StartCall:
        return self.start_call


class RecordingCallTracer(tracer.ServerCallTracer, tracer.AttemptTracer):
    def __init__(self, notes: RecordingTracer, side: str) -> None:
        self.notes, self.side = notes, side
        self.wants_pick_events = notes.messages

    def endpoint_picked(self, address: str, stream: Any, was_delayed: bool) -> None:
        stream.message_tracer = self

    def message_sent(self, message: bytes, wire_size: int) -> None:
        self.notes.lines.append(f"{self.side} sent {len(message)}")

    def message_received(self, message: bytes, wire_size: int) -> None:
        self.notes.lines.append(f"{self.side} received {len(message)}")

    def half_closed(self) -> None:
        self.notes.lines.append(f"{self.side} sent all")

    def half_close_received(self) -> None:
        self.notes.lines.append(f"{self.side} received all")

    def headers_received(self, headers: Any) -> None:
        self.notes.lines.append(f"{self.side} answered {headers.http_status}")

    def before_pick(self, authority: str, fields: Any, deadline: float) -> None:
        said = b" ".join(key for key, _ in fields).decode()
        self.notes.lines.append(f"asks {said} {'in time' if deadline < math.inf else 'ever'}")

    def before_handler(self) -> None:
        self.notes.lines.append("enter")

    def call_ended(self, status: tracer.CallStatus) -> None:
        self.notes.lines.append(f"{self.side} ended {status[0]}")

    def attempt_ended(self, status: tracer.CallStatus, stream: Any) -> None:
        self.notes.lines.append(f"attempt ended {status[0]}")


class Call(tracer.ClientCallTracer):
    def __init__(self, notes: RecordingTracer) -> None:
        self.notes = notes

    def start_attempt(
        self, kind: tracer.AttemptKind, previous_attempts: int
    ) -> tracer.AttemptTracer:
        self.notes.lines.append(f"attempt {kind.value}")
        return RecordingCallTracer(self.notes, "client")

    def call_ended(self, status: tracer.CallStatus | None) -> None:
        self.notes.lines.append(f"call ended {status and status[0]}")


async def test_all_are_told_and_only_who_wants_to_of_messages(short_dir: Path) -> None:
    few, all_of_it = RecordingTracer(), RecordingTracer(messages=True)
    with use_tracers(client=few, server=few), use_tracers(client=all_of_it, server=all_of_it):
        async with (
            serve_on_socket(short_dir / "a", Server(ECHO_SERVICER)),
            connect_to(f"unix:{short_dir / 'a'}") as channel,
        ):
            await channel.stub(EchoServiceStub).Echo(echo_request("hi"), metadata=[("key", "1")])
    assert current_tracers().client is None
    assert all_of_it.lines == [
        "call",
        "attempt original",
        "asks key ever",
        "client sent 4",
        "client sent all",
        "served Echo",
        "enter",
        "server received 4",
        "server received all",
        "server sent 4",
        "server ended 0",
        "client answered 200",
        "client received 4",
        "attempt ended 0",
        "call ended 0",
    ]
    follower = ("asks ", " sent ", " received ", " answered ")
    assert few.lines == [
        line for line in all_of_it.lines if not any(words in line for words in follower)
    ]


@pytest.mark.parametrize("others", [0, 1])
async def test_the_ends_of_both_sides_are_told_once(others: int, short_dir: Path) -> None:
    notes = RecordingTracer(messages=True)
    with ExitStack() as stack:
        for each in [notes, *(RecordingTracer() for _ in range(others))]:
            stack.enter_context(use_tracers(client=each, server=each))
        async with (
            serve_on_socket(short_dir / "a", Server(ECHO_SERVICER)),
            connect_to(f"unix:{short_dir / 'a'}") as channel,
        ):
            stub = channel.stub(EchoServiceStub)
            with trio.fail_after(30):
                await stub.Join(echo_requests("a", "b"))
            async with stub.Chat() as call:
                await call.send_message(echo_request("a"))
                assert await call.receive_message() is not None
                await call.close()
                await call.close()
                assert await call.receive_message() is None
    told = [line for line in notes.lines if " all" in line or "asks" in line or "answer" in line]
    assert told == [
        "asks  in time",
        "client sent all",
        "server received all",
        "client answered 200",
        "asks  ever",
        "client answered 200",
        "client sent all",
        "server received all",
    ]


async def test_a_guest_is_told_of_the_calls_of_its_block(short_dir: Path) -> None:
    notes, server = RecordingTracer(), Server(ECHO_SERVICER)
    async with (
        serve_on_socket(short_dir / "a", server),
        connect_to(f"unix:{short_dir / 'a'}") as channel,
    ):
        stub = channel.stub(EchoServiceStub)
        await stub.Echo(echo_request("before"))
        with server.add_tracer(notes):
            async for _ in stub.Repeat(RepeatRequest(count=1)):
                pass
        await stub.Echo(echo_request("after"))
    assert notes.lines == ["served Repeat", "enter", "server ended 0"]


async def test_a_call_that_is_dropped_has_an_end(short_dir: Path) -> None:
    notes = RecordingTracer()
    with use_tracers(client=notes):
        async with (
            serve_on_socket(short_dir / "a", Server(ECHO_SERVICER)),
            connect_to(f"unix:{short_dir / 'a'}") as channel,
        ):
            dropped = [await channel.stub(EchoServiceStub).Repeat(RepeatRequest(count=10**9))]
            await dropped[0].receive_message()
            with pytest.warns(ResourceWarning, match="Repeat.* was dropped"):
                dropped.clear()
            await trio.testing.wait_all_tasks_blocked()
            async with channel.stub(EchoServiceStub).Chat() as call:
                call.cancel()
    assert notes.lines.count("call ended None") == 2
    assert notes.lines.count("attempt ended 1") == 2


async def test_what_no_handler_takes_is_told(short_dir: Path) -> None:
    notes = RecordingTracer()
    server = Server(CallbackServicer(), check_access=lambda peer, head, forward: "not you")
    with server.add_tracer(notes):
        async with (
            serve_on_socket(short_dir / "a", server),
            connect_to(f"unix:{short_dir / 'a'}") as channel,
        ):
            with pytest.raises(purerpc.PermissionDeniedError):
                await channel.stub(EchoServiceStub).Echo(echo_request("?"))
    assert notes.lines == ["refused /echo.v1.EchoService/Echo 7"]


async def test_one_that_fails_costs_no_call(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(tracer.ServerTracer, tracer.ServerCallTracer):
        def start_call(self, *_: Any) -> tracer.ServerCallTracer:
            return self

        def call_ended(self, status: tracer.CallStatus) -> None:
            raise RuntimeError("a bug")

    with use_tracers(server=Failing()):
        async with (
            serve_on_socket(short_dir / "a", Server(ECHO_SERVICER)),
            connect_to(f"unix:{short_dir / 'a'}") as channel,
        ):
            stub = channel.stub(EchoServiceStub)
            async with stub.Chat() as call:
                await stub.Echo(echo_request("hi"))
                await call.send_message(echo_request("still"))
                assert (await call.receive_message()).message == "still"
    assert "/echo.v1.EchoService/Echo: call tracer raised" in caplog.text


STEPS = (
    *("trace_method", "start_call", "start_attempt", "before_pick", "endpoint_picked"),
    *("attempt_ended", "call_ended", "before_handler", "call_rejected"),
    *("message_sent", "half_closed", "message_received", "half_close_received"),
    "headers_received",
)


class OwnBaseError(BaseException):
    """Not an Exception, which `except Exception` would let through."""


class Raising(RecordingTracer):
    """Raises at some steps, before it writes anything down."""

    def __init__(self, steps: Collection[str], error: BaseException) -> None:
        super().__init__(messages=True)
        self.steps, self.error = steps, error

    def check(self, step: str) -> None:
        if step in self.steps:
            raise self.error

    def start_call(self, *arguments: Any) -> Any:
        super().start_call(*arguments)
        self.check("start_call")
        if not arguments:
            return RaisingCall(self)
        watch = arguments[2].message_tracer = RaisingWatch(self, "server")
        return watch

    def call_rejected(self, headers: Any, status: tracer.CallStatus) -> None:
        self.check("call_rejected")

    def trace_method(self, target: str, method: Any) -> tracer.StartCall:
        self.check("trace_method")
        return self.start_call


def checked(step: str) -> Any:
    def call(self: Any, *args: Any, **named: Any) -> Any:
        found = getattr(super(type(self), self), step)(*args, **named)
        self.notes.check(step)
        return found

    return call


class RaisingWatch(RecordingCallTracer):
    notes: Raising


class RaisingCall(Call):
    notes: Raising

    def start_attempt(
        self, kind: tracer.AttemptKind, previous_attempts: int
    ) -> tracer.AttemptTracer:
        self.notes.check("start_attempt")
        return RaisingWatch(self.notes, "client")


for name in STEPS:
    if hasattr(RecordingCallTracer, name):
        setattr(RaisingWatch, name, checked(name))
RaisingCall.call_ended = checked("call_ended")  # type: ignore[method-assign]


NO_SUCH = Method("no.Such", "Method", EchoRequest, EchoReply, False, False)


async def make_calls(channel: Channel) -> None:
    """A unary call, one that streams, and one that is refused."""
    stub = channel.stub(EchoServiceStub)
    assert (await stub.Echo(echo_request("hi"))).message == "hi"
    async with stub.Chat() as call:
        await call.send_message(echo_request("still"))
        assert (await call.receive_message()).message == "still"
        await call.close()
        assert await call.receive_message() is None
    with pytest.raises(purerpc.UnimplementedError):
        await make_multicallable(channel, NO_SUCH)(echo_request("?"))


@pytest.mark.parametrize(
    "error", [RuntimeError("a bug"), OwnBaseError("a bug")], ids=["Error", "Bug"]
)
@pytest.mark.parametrize("order", ["alone", "first", "last"])
@pytest.mark.parametrize("steps", [*STEPS, STEPS], ids=[*STEPS, "all"])
async def test_a_tracer_that_raises_costs_a_line_of_the_log(
    steps: str | tuple[str, ...],
    order: str,
    error: BaseException,
    short_dir: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracer_dispatch, "_log_bucket", TokenBucket(burst=100, rate=1))
    raising, notes = (
        Raising((steps,) if isinstance(steps, str) else steps, error),
        RecordingTracer(),
    )
    tracers = {"alone": [raising], "first": [raising, notes], "last": [notes, raising]}[order]
    with ExitStack() as stack:
        for each in tracers:
            stack.enter_context(use_tracers(client=each, server=each))
        async with (
            serve_on_socket(short_dir / "a", Server(ECHO_SERVICER)),
            connect_to(f"unix:{short_dir / 'a'}") as channel,
        ):
            with trio.fail_after(30):
                await make_calls(channel)
                connections = {each.channelz_id for each in channelz_registry.SOCKETS.iter_from(0)}
                await make_calls(channel)
            assert {
                each.channelz_id for each in channelz_registry.SOCKETS.iter_from(0)
            } == connections
    if order != "alone":
        assert notes.lines.count("call ended 0") == 4
        assert notes.lines.count("server ended 0") == 4
        assert sum(line.startswith("refused") for line in notes.lines) == 2
    assert "call tracer raised" in caplog.text
