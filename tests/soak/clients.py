"""Clients on meshtrio: `python -m tests.soak.clients MESH_SOCKET SEED COUNT NAME...` for a process.

Each calls one plugin after the other in every way, directly or through the gateway. A process ends
with its stdin, and then writes its score to stdout, as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import purerpc
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest, RepeatRequest, SlowRequest

from meshtrio import mesh
from meshtrio.client.channel import connect_to
from meshtrio.grpc.service_config import parse_service_config
from tests.kills import RETRY_CONFIG
from tests.soak.score import Score

DEADLINE = 180.0
"""Seconds within which a retriable call has to be answered: a stuck plugin is found out, killed and
started again well before."""
MAX_DEADLINE_OVERRUN = 10.0
"""Seconds after its deadline that a call may end, on a machine with so much to do."""
PLUGINS_OF_ONE = 4
"""Plugins that one client calls."""
UNARY_ONLY = frozenset({"contained"})
PAUSE = (0.02, 0.15)
"""Seconds between two calls of a client, at least and at most."""


class Client:
    """Calls some of the plugins until cancelled."""

    def __init__(self, name: str, socket: str, names: list[str], rng: Random, score: Score) -> None:
        self._name = name
        self._socket = socket
        self._rng = rng
        self._score = score
        self._plugins = rng.sample(names, min(PLUGINS_OF_ONE, len(names)))
        self._number = 0
        self._kinds: dict[str, Callable[[Any, str, str], Awaitable[None]]] = {
            "echo": self._echo,
            "slow": self._slow,
            "repeat": self._repeat,
            "join": self._join,
            "chat": self._chat,
            "deadline": self._deadline,
            "cancel": self._cancel,
        }

    async def run(self, through_gateway: bool) -> None:
        async with AsyncExitStack() as stack:
            stubs = {}
            for plugin in self._plugins:
                opening = self._gateway(plugin) if through_gateway else self._direct(plugin)
                channel = await stack.enter_async_context(opening)
                stubs[plugin] = channel.stub(EchoServiceStub)
            while True:
                plugin = self._rng.choice(self._plugins)
                await self._make_call(stubs[plugin], plugin)
                await trio.sleep(self._rng.uniform(*PAUSE))

    @asynccontextmanager
    async def _direct(self, plugin: str) -> AsyncIterator[Any]:
        async with mesh.connect(f"plugin.{plugin}", mesh_socket=self._socket) as channel:
            yield channel

    @asynccontextmanager
    async def _gateway(self, plugin: str) -> AsyncIterator[Any]:
        target = [("x-mesh-target", f"plugin.{plugin}")]
        address, config = f"unix:{self._socket}", parse_service_config(RETRY_CONFIG)
        async with connect_to(address, service_config=config, metadata=target) as channel:
            yield channel

    async def _make_call(self, stub: Any, plugin: str) -> None:
        """Make one call, and judge how it ended."""
        kinds = ["echo", "slow"] if plugin in UNARY_ONLY else list(self._kinds)
        kind = self._rng.choice(kinds)
        self._number += 1
        key = f"{self._name}-{self._number}"
        began = trio.current_time()
        try:
            with trio.fail_after(DEADLINE):
                await self._kinds[kind](stub, key, plugin)
            outcome = "answered"
        except purerpc.RpcFailedError as exc:
            outcome = exc.status.status_code.name.lower()
            if kind == "echo":
                self._record_outcome("lost", f"{key} to {plugin} after {_since(began)}: {exc}")
        except trio.TooSlowError:
            outcome = "deadline"
            if kind == "echo":
                self._record_outcome("lost", f"{key} to {plugin}: no answer within {DEADLINE:g} s")
        self._score.outcomes[f"{kind} {outcome}"] += 1
        if trio.current_time() - began > DEADLINE + MAX_DEADLINE_OVERRUN:
            self._record_outcome("late", f"{key} to {plugin} ended after {_since(began)}")

    def _record_outcome(self, where: str, text: str) -> None:
        getattr(self._score, where).append(text)

    def _expect(self, key: str, expected: str, found: str) -> None:
        if found != expected:
            self._record_outcome("wrong", f"{key}: {found[:80]!r} instead of {expected[:80]!r}")

    async def _echo(self, stub: Any, key: str, plugin: str) -> None:
        self._expect(key, key, (await stub.Echo(EchoRequest(message=key))).message)

    async def _slow(self, stub: Any, key: str, plugin: str) -> None:
        request = SlowRequest(message=key, seconds=self._rng.choice((0.0, 0.05)))
        self._expect(key, key, (await stub.Slow(request)).message)

    async def _repeat(self, stub: Any, key: str, plugin: str) -> None:
        count, replies = self._rng.randint(1, 200), 0
        async for reply in stub.Repeat(RepeatRequest(message=key, count=count)):
            self._expect(key, key, reply.message)
            replies += 1
        self._expect(key, f"{count} replies", f"{replies} replies")

    async def _join(self, stub: Any, key: str, plugin: str) -> None:
        texts = [key] * self._rng.randint(1, 50)
        self._expect(key, " ".join(texts), (await stub.Join(_requests(texts))).message)

    async def _chat(self, stub: Any, key: str, plugin: str) -> None:
        texts = [f"{key}.{number}" for number in range(self._rng.randint(1, 50))]
        found = [reply.message async for reply in stub.Chat(_requests(texts))]
        self._expect(key, " ".join(texts), " ".join(found))

    async def _deadline(self, stub: Any, key: str, plugin: str) -> None:
        """A call that no plugin can answer in time."""
        with trio.move_on_after(0.05) as scope:
            await stub.Slow(SlowRequest(message=key, seconds=30))
        self._expect(key, "deadline", "deadline" if scope.cancelled_caught else "answered")

    async def _cancel(self, stub: Any, key: str, plugin: str) -> None:
        """A stream that is left in the middle."""
        async with stub.Repeat(RepeatRequest(message=key, count=100_000)) as call:
            async for reply in call:
                self._expect(key, key, reply.message)
                break


def _since(began: float) -> str:
    return f"{trio.current_time() - began:.1f} s"


async def _requests(texts: list[str]) -> AsyncIterator[EchoRequest]:
    for text in texts:
        yield EchoRequest(message=text)


async def main(socket: str, seed: str, count: int, names: list[str]) -> Score:
    """Run clients until stdin ends."""
    score = Score()
    async with trio.open_nursery() as nursery:
        for number in range(count):
            name = f"p{seed}.{number}"
            client = Client(name, socket, names, Random(name), score)
            nursery.start_soon(client.run, number % 2 == 1)
        async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
            while await stdin.receive_some(100):
                pass
        nursery.cancel_scope.cancel()
    return score


if __name__ == "__main__":
    found = trio.run(main, sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])
    print(json.dumps(found.to_json()))
