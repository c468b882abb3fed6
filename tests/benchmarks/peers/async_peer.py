"""The cases of peers whose calls are awaited, on trio or asyncio alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import attrs

from tests.benchmarks.peers.base import (
    HUGE,
    SMALL,
    SMALL_REPLIES,
    STREAM_LENGTH,
    LoopTimer,
    Measurement,
    requests,
)
from tests.benchmarks.peers.pacer import Pacer

WARM_UP_CALLS = 20
Unary = Callable[[Any], Awaitable[Any]]
Send = Callable[[Any], Awaitable[Any]]
Receive = Callable[[], Awaitable[Any]]


@attrs.frozen
class Calls:
    """The methods of echo.v1 on an open channel, as users of the peer write their calls."""

    echo: Unary
    echo_with_deadline: Unary
    echo_with_metadata: Unary
    repeat: Callable[[Any], AsyncIterator[Any]]
    join: Callable[[AsyncIterator[Any]], Awaitable[Any]]
    chat: Callable[[AsyncIterator[Any]], AsyncIterator[Any]]
    """With requests from an async generator."""
    open_chat: Callable[[], AbstractAsyncContextManager[tuple[Send, Receive]]]
    """With requests sent one by one."""


class AsyncPeer:
    """A peer has `calls`, `gather` and `start_paced`; the rest is the same for all."""

    def calls(self, address: str) -> AbstractAsyncContextManager[Calls]:
        """Open a channel."""
        raise NotImplementedError

    async def gather(self, tasks: list[Callable[[], Awaitable[None]]]) -> None:
        raise NotImplementedError

    async def start_paced(self, pacer: Pacer, call: Callable[[float], Awaitable[None]]) -> None:
        """Start a task for each call when it is due, and return when all have ended."""
        raise NotImplementedError

    async def unary(self, address: str, request: Any, width: int, seconds: float) -> Measurement:
        async with self.calls(address) as calls:
            return await self.in_flight(calls.echo, request, width, seconds)

    async def unary_with_deadline(self, address: str, seconds: float) -> Measurement:
        async with self.calls(address) as calls:
            return await self.in_flight(calls.echo_with_deadline, SMALL, 1, seconds)

    async def unary_with_metadata(self, address: str, seconds: float) -> Measurement:
        async with self.calls(address) as calls:
            return await self.in_flight(calls.echo_with_metadata, SMALL, 1, seconds)

    async def in_flight(self, call: Unary, request: Any, width: int, seconds: float) -> Measurement:
        """`width` loops of calls at once."""
        clock = LoopTimer(seconds)

        async def warm_up() -> None:
            for _ in range(WARM_UP_CALLS):
                await call(request)

        async def loop() -> None:
            while clock.is_running:
                await call(request)
                clock.count += 1

        await self.gather([warm_up] * min(width, 20))
        clock.start()
        await self.gather([loop] * width)
        return clock.stop()

    async def paced(self, address: str, rate: int, seconds: float) -> Measurement:
        """Calls at a fixed rate; their latency counts from when they were due."""
        clock = LoopTimer(seconds)
        latencies: list[float] = []
        async with self.calls(address) as calls:
            for _ in range(WARM_UP_CALLS):
                await calls.echo(SMALL)

            async def call(due: float) -> None:
                await calls.echo(SMALL)
                latencies.append(time.monotonic() - due)

            clock.start()
            with Pacer(rate, max(2, round(rate * seconds))) as pacer:
                await self.start_paced(pacer, call)
            return clock.stop(latencies)

    async def stream(self, address: str, seconds: float) -> Measurement:
        """Messages of one stream, with 100 on their way at a time."""
        clock = LoopTimer(seconds)
        async with self.calls(address) as calls, calls.open_chat() as (send, receive):
            for _ in range(100):
                await send(SMALL)
            clock.start()
            while clock.is_running:
                for _ in range(50):
                    await receive()
                    clock.count += 1
                for _ in range(50):
                    await send(SMALL)
            return clock.stop()

    async def generator_stream(self, address: str, seconds: float) -> Measurement:
        """Messages there and back, of streams whose requests come from an async generator."""
        clock = LoopTimer(seconds)
        async with self.calls(address) as calls:
            async for _ in calls.chat(requests(WARM_UP_CALLS)):
                pass
            clock.start()
            while clock.is_running:
                before = clock.count
                async for _ in calls.chat(requests()):
                    clock.count += 1
                assert clock.count - before == STREAM_LENGTH
            return clock.stop()

    async def client_stream(self, address: str, seconds: float) -> Measurement:
        """Messages of streams from an async generator, with one reply for each stream."""
        clock = LoopTimer(seconds)
        async with self.calls(address) as calls:
            await calls.join(requests(WARM_UP_CALLS))
            clock.start()
            while clock.is_running:
                reply = await calls.join(requests())
                assert reply.instance == STREAM_LENGTH
                clock.count += STREAM_LENGTH
            return clock.stop()

    async def server_stream(self, address: str, seconds: float) -> Measurement:
        """Small messages of streams that one request opens."""
        clock = LoopTimer(seconds)
        async with self.calls(address) as calls:
            await calls.echo(SMALL)
            clock.start()
            while clock.is_running:
                before = clock.count
                async for _ in calls.repeat(SMALL_REPLIES):
                    clock.count += 1
                assert clock.count - before == STREAM_LENGTH
            return clock.stop()

    async def download(self, address: str, seconds: float) -> Measurement:
        clock = LoopTimer(seconds)
        async with self.calls(address) as calls:
            clock.start()
            while clock.is_running:
                async for _ in calls.repeat(HUGE):
                    clock.count += 1
            return clock.stop()

    async def connect(self, address: str, seconds: float) -> Measurement:
        clock = LoopTimer(seconds)

        async def connect_and_call() -> None:
            async with self.calls(address) as calls:
                await calls.echo(SMALL)

        await connect_and_call()  # which imports the library
        clock.start()
        while clock.is_running:
            await connect_and_call()
            clock.count += 1
        return clock.stop()


class AsyncioPeer(AsyncPeer):
    def run(self, case: Callable[..., Awaitable[Measurement]], *arguments: Any) -> Measurement:
        async def main() -> Measurement:
            return await case(*arguments)

        return asyncio.run(main())

    async def gather(self, tasks: list[Callable[[], Awaitable[None]]]) -> None:
        await asyncio.gather(*(task() for task in tasks))

    async def start_paced(self, pacer: Pacer, call: Callable[[float], Any]) -> None:
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        async with asyncio.TaskGroup() as group:

            def start_due() -> None:
                for due in pacer.take_due():
                    group.create_task(call(due))
                if pacer.has_ended:
                    ended.set()

            loop.add_reader(pacer, start_due)
            try:
                await ended.wait()
            finally:
                loop.remove_reader(pacer)
