"""Who calls: meshtrio's channel, or grpcio's blocking one. The same cases, on any way."""

from __future__ import annotations

import queue
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Protocol

import trio
from echo.v1 import echo_pb2 as pb

from tests.benchmarks.peers.base import SERVICE, SMALL
from tests.benchmarks.supervision.fleet import cpu_nanoseconds

LARGE_REQUEST = pb.EchoRequest(message="x" * 1_000_000)
MANY = pb.RepeatRequest(message=SMALL.message, count=2000)
IN_FLIGHT = 50
_WARM_UP = 200
"""Operations that are not counted; of big ones, a tenth."""


class Stopwatch:
    """Counts and times operations for so many seconds, and the CPU of who passes them on."""

    def __init__(self, seconds: float, pid: int) -> None:
        self._seconds = seconds
        self._pid = pid
        self.count = 0
        self.times: list[float] = []
        """Seconds of each operation, where they come one by one."""

    def start(self) -> None:
        self._cpu = self._proxy_cpu()
        self._began = self._last = time.perf_counter()
        self._end = self._began + self._seconds

    @property
    def is_running(self) -> bool:
        return time.perf_counter() < self._end

    def lap(self) -> None:
        """One operation is done, and the next begins."""
        now = time.perf_counter()
        self.times.append(now - self._last)
        self._last = now
        self.count += 1

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self._began
        self.cpu = self._proxy_cpu() - self._cpu
        """Seconds of it."""

    def _proxy_cpu(self) -> float:
        return cpu_nanoseconds(self._pid) / 1e9 if self._pid else 0.0


class Client(Protocol):
    """Each method connects to a socket, does operations of a kind and counts them."""

    def one_by_one(self, socket: str, request: Any, watch: Stopwatch) -> None: ...

    def at_once(self, socket: str, watch: Stopwatch) -> None: ...

    def stream(self, socket: str, watch: Stopwatch) -> None: ...

    def ping_pong(self, socket: str, watch: Stopwatch) -> None: ...


CASES: dict[str, Callable[[Client, str, Stopwatch], None]] = {
    "unary, 1 in flight": lambda c, s, w: c.one_by_one(s, SMALL, w),
    f"unary, {IN_FLIGHT} in flight": lambda c, s, w: c.at_once(s, w),
    "server streaming, a message": lambda c, s, w: c.stream(s, w),
    "unary of 1 MB": lambda c, s, w: c.one_by_one(s, LARGE_REQUEST, w),
    "bidirectional streaming, there and back": lambda c, s, w: c.ping_pong(s, w),
}


def _warm_ups(request: Any) -> int:
    return _WARM_UP // 10 if request is LARGE_REQUEST else _WARM_UP


class Meshtrio:
    """A channel to one socket, on trio."""

    def one_by_one(self, socket: str, request: Any, watch: Stopwatch) -> None:
        async def case(stub: Any) -> None:
            for _ in range(_warm_ups(request)):
                await stub.Echo(request)
            watch.start()
            while watch.is_running:
                await stub.Echo(request)
                watch.lap()

        self._run(case, socket, watch)

    def at_once(self, socket: str, watch: Stopwatch) -> None:
        async def loop(stub: Any, goes: Callable[[], bool]) -> None:
            while goes():
                await stub.Echo(SMALL)
                watch.count += 1

        async def loops(stub: Any, goes: Callable[[], bool]) -> None:
            async with trio.open_nursery() as nursery:
                for _ in range(IN_FLIGHT):
                    nursery.start_soon(loop, stub, goes)

        async def case(stub: Any) -> None:
            await loops(stub, lambda: watch.count < 10 * _WARM_UP)
            watch.count = 0
            watch.start()
            await loops(stub, lambda: watch.is_running)

        self._run(case, socket, watch)

    def stream(self, socket: str, watch: Stopwatch) -> None:
        async def case(stub: Any) -> None:
            async for _ in stub.Repeat(MANY):
                pass
            watch.start()
            while watch.is_running:
                async for _ in stub.Repeat(MANY):
                    watch.count += 1

        self._run(case, socket, watch)

    def ping_pong(self, socket: str, watch: Stopwatch) -> None:
        async def case(stub: Any) -> None:
            async with stub.Chat() as call:
                for _ in range(_WARM_UP):
                    await call.send_message(SMALL)
                    await call.receive_message()
                watch.start()
                while watch.is_running:
                    await call.send_message(SMALL)
                    await call.receive_message()
                    watch.lap()

        self._run(case, socket, watch)

    def _run(self, case: Callable[[Any], Awaitable[None]], socket: str, watch: Stopwatch) -> None:
        async def main() -> None:
            async with self._stub(socket) as stub:
                await case(stub)
                watch.stop()

        trio.run(main)

    @asynccontextmanager
    async def _stub(self, socket: str) -> AsyncIterator[Any]:
        from echo.v1.echo_grpc import EchoServiceStub

        from meshtrio.client.channel import connect_to

        async with connect_to(f"unix:{socket}") as channel:
            yield channel.stub(EchoServiceStub)


class Grpcio:
    """Blocking calls; those at once are made by threads."""

    def one_by_one(self, socket: str, request: Any, watch: Stopwatch) -> None:
        with self._method(socket, "unary_unary", "Echo") as call:
            for _ in range(_warm_ups(request)):
                call(request)
            watch.start()
            while watch.is_running:
                call(request)
                watch.lap()
            watch.stop()

    def at_once(self, socket: str, watch: Stopwatch) -> None:
        def loop(call: Callable[[Any], Any]) -> int:
            count = 0
            while watch.is_running:
                call(SMALL)
                count += 1
            return count

        with (
            self._method(socket, "unary_unary", "Echo") as call,
            ThreadPoolExecutor(IN_FLIGHT) as threads,
        ):
            list(threads.map(call, [SMALL] * 10 * _WARM_UP))
            watch.start()
            watch.count = sum(threads.map(loop, [call] * IN_FLIGHT))
            watch.stop()

    def stream(self, socket: str, watch: Stopwatch) -> None:
        with self._method(socket, "unary_stream", "Repeat") as call:
            for _ in call(MANY):
                pass
            watch.start()
            while watch.is_running:
                for _ in call(MANY):
                    watch.count += 1
            watch.stop()

    def ping_pong(self, socket: str, watch: Stopwatch) -> None:
        waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        with self._method(socket, "stream_stream", "Chat") as call:
            replies = call(iter(waiting.get, None))
            for _ in range(_WARM_UP):
                waiting.put(SMALL)
                next(replies)
            watch.start()
            while watch.is_running:
                waiting.put(SMALL)
                next(replies)
                watch.lap()
            watch.stop()
            waiting.put(None)

    @contextmanager
    def _method(self, socket: str, kind: str, name: str) -> Iterator[Any]:
        import grpc

        request = pb.RepeatRequest if name == "Repeat" else pb.EchoRequest
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            make = getattr(channel, kind)
            yield make(SERVICE + name, request.SerializeToString, pb.EchoReply.FromString)


CLIENTS: dict[str, Client] = {"meshtrio": Meshtrio(), "grpcio": Grpcio()}
