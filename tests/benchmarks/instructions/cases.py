"""What is counted: the calls that the client program makes in each case.

A case warms up and then does its operations in several rounds, on one connection, whose starts and
ends it reports to its `Meter`. The client program imports this without the package around it, with
the meshtrio of any revision.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NamedTuple

import trio
from echo.v1 import echo_pb2 as pb

SMALL = pb.EchoRequest(message="x" * 90)
IN_FLIGHT = 50
WINDOW = 50
"""Number of messages of a bidirectional stream that are sent before their replies are awaited."""
STREAM_LENGTH = 500
"""Number of messages of a call that streams in one direction; together they fit the initial
flow-control window of HTTP/2, so that neither side waits for the other."""
METADATA = [("authorization", "Bearer " + "x" * 1000)] + [(f"key-{n}", "x" * 120) for n in range(8)]
"""About 2 KB, the same in each call."""
DEADLINE = 60.0
"""Seconds; sent in microseconds, so that it differs from call to call, as of shorter deadlines."""
ROUNDS = 3
UNARY_CALLS, STREAM_CALLS, MESSAGES = 500, 2, 1000
"""Number of operations of a round."""
WARM_UP_CALLS, WARM_UP_MESSAGES = 200, 400
MESH, GATEWAY = "mesh", "gateway"

Stub = Any
Call = Callable[[], Awaitable[Any]]


class Meter:
    """Lets the benchmark read the counters while this process waits."""

    def start(self) -> None:
        """Start counting."""
        gc.collect()  # so that collections happen at the same points in each run
        self.end_round()

    def end_round(self) -> None:
        """Report that the operations of a round are done; the next one begins."""
        # Blocks the whole process on purpose.
        print("waiting", flush=True)
        if not sys.stdin.readline():
            raise SystemExit("the benchmark has ended")


# -- unary ---------------------------------------------------------------------------------------


async def make_calls(call: Call, count: int, in_flight: int) -> None:
    """Make `count` calls, `in_flight` at a time."""
    calls = iter(range(count))

    async def loop() -> None:
        for _ in calls:
            await call()

    async with trio.open_nursery() as nursery:
        for _ in range(in_flight):
            nursery.start_soon(loop)


async def count_calls(call: Call, meter: Meter, in_flight: int = 1) -> None:
    """Count calls that are made in loops."""
    await make_calls(call, WARM_UP_CALLS, in_flight)
    meter.start()
    for _ in range(ROUNDS):
        await make_calls(call, UNARY_CALLS, in_flight)
        meter.end_round()


async def unary(stub: Stub, meter: Meter) -> None:
    await count_calls(lambda: stub.Echo(SMALL), meter)


async def unary_at_once(stub: Stub, meter: Meter) -> None:
    await count_calls(lambda: stub.Echo(SMALL), meter, IN_FLIGHT)


async def unary_with_deadline(stub: Stub, meter: Meter) -> None:
    async def call() -> None:
        with trio.fail_after(DEADLINE):
            await stub.Echo(SMALL)

    await count_calls(call, meter)


async def unary_with_metadata(stub: Stub, meter: Meter) -> None:
    await count_calls(lambda: stub.Echo(SMALL, metadata=METADATA), meter)


# -- streaming in one direction ------------------------------------------------------------------


async def server_streaming(stub: Stub, meter: Meter) -> None:
    request = pb.RepeatRequest(message=SMALL.message, count=STREAM_LENGTH)

    async def call() -> None:
        async for _ in stub.Repeat(request):
            pass

    await count_streaming_calls(call, meter)


async def client_streaming(stub: Stub, meter: Meter) -> None:
    async def requests() -> AsyncIterator[pb.EchoRequest]:
        for _ in range(STREAM_LENGTH):
            yield SMALL

    await count_streaming_calls(lambda: stub.Join(requests()), meter)


async def count_streaming_calls(call: Call, meter: Meter) -> None:
    """Count calls of `STREAM_LENGTH` messages, one after the other."""
    await call()
    meter.start()
    for _ in range(ROUNDS):
        for _ in range(STREAM_CALLS):
            await call()
        meter.end_round()


# -- bidirectional streaming ---------------------------------------------------------------------


class ReplyCounter:
    """Counts replies, and opens the next window of requests once all of the last were answered."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._count = -WARM_UP_MESSAGES
        self._window_opened = trio.Event()
        self.is_done = False

    def receive(self) -> None:
        """Count a reply."""
        self._count += 1
        if self._count % WINDOW:
            return
        if not self._count:
            self._meter.start()
        elif self._count > 0 and not self._count % MESSAGES:
            self._meter.end_round()
            self.is_done = self._count == ROUNDS * MESSAGES
        self._window_opened.set()

    async def wait(self) -> bool:
        """Wait until the next window may be sent; return whether there is one."""
        await self._window_opened.wait()
        self._window_opened = trio.Event()
        return not self.is_done


async def chat_by_generator(stub: Stub, meter: Meter) -> None:
    replies = ReplyCounter(meter)

    async def requests() -> AsyncIterator[pb.EchoRequest]:
        while True:
            for _ in range(WINDOW):
                yield SMALL
            if not await replies.wait():
                return

    async for _ in stub.Chat(requests()):
        replies.receive()


class Requests:
    """The requests of a stream, as an object of a class."""

    def __init__(self, replies: ReplyCounter) -> None:
        self._replies = replies
        self._unsent = WINDOW

    def __aiter__(self) -> Requests:
        return self

    async def __anext__(self) -> pb.EchoRequest:
        if not self._unsent:
            if not await self._replies.wait():
                raise StopAsyncIteration
            self._unsent = WINDOW
        self._unsent -= 1
        return SMALL


async def chat_by_iterable(stub: Stub, meter: Meter) -> None:
    replies = ReplyCounter(meter)
    async for _ in stub.Chat(Requests(replies)):
        replies.receive()


async def chat_by_send_message(stub: Stub, meter: Meter) -> None:
    replies = ReplyCounter(meter)
    async with stub.Chat() as call:
        while not replies.is_done:
            for _ in range(WINDOW):
                await call.send_message(SMALL)
            for _ in range(WINDOW):
                await call.receive_message()
                replies.receive()


# -- the table -----------------------------------------------------------------------------------


class Case(NamedTuple):
    """A case, and the route of its calls."""

    run: Callable[[Stub, Meter], Awaitable[None]]
    operations: int = UNARY_CALLS
    """Number of operations of a round."""
    route: str = ""
    """`MESH`, by `mesh.connect`; `GATEWAY`; or "", a channel to a server's own socket."""


CASES = {
    "unary, 1 in flight": Case(unary),
    "unary, 50 in flight": Case(unary_at_once),
    "unary, with a deadline": Case(unary_with_deadline),
    "unary, 2 KB of metadata": Case(unary_with_metadata),
    "server streaming": Case(server_streaming, STREAM_CALLS * STREAM_LENGTH),
    "client streaming, async generator": Case(client_streaming, STREAM_CALLS * STREAM_LENGTH),
    "bidirectional, async generator": Case(chat_by_generator, MESSAGES),
    "bidirectional, iterable": Case(chat_by_iterable, MESSAGES),
    "bidirectional, send_message": Case(chat_by_send_message, MESSAGES),
    "mesh.connect, unary, 1 in flight": Case(unary, route=MESH),
    "mesh.connect, unary, 50 in flight": Case(unary_at_once, route=MESH),
    "gateway, unary, 1 in flight": Case(unary, route=GATEWAY),
    "gateway, unary, 50 in flight": Case(unary_at_once, route=GATEWAY),
}
