"""Clients on grpcio, through the gateway.

    python -m tests.soak.grpcio_clients MESH_SOCKET SEED COUNT NAME...

As in `clients`, it ends with its stdin, and then writes its score to stdout.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from random import Random
from typing import Any

import grpc
from echo.v1 import echo_pb2 as pb

from tests.kills import RETRY_CONFIG
from tests.soak.clients import DEADLINE, MAX_DEADLINE_OVERRUN, PAUSE, PLUGINS_OF_ONE, UNARY_ONLY
from tests.soak.score import Score

_END_TIMEOUT = 15.0
"""Seconds for calls under way at the end, which are not judged any more if they take longer."""
_SERVICE = "/echo.v1.EchoService/"


class Client:
    """Calls some of the plugins in a thread of its own until `over` is set."""

    def __init__(
        self, name: str, channel: grpc.Channel, names: list[str], over: threading.Event
    ) -> None:
        self.score = Score()
        self._name = name
        self._over = over
        self._rng = Random(name)
        self._plugins = self._rng.sample(names, min(PLUGINS_OF_ONE, len(names)))
        self._number = 0

        def method(kind: str, path: str, request: Any) -> Any:
            make = getattr(channel, kind)
            return make(_SERVICE + path, request.SerializeToString, pb.EchoReply.FromString)

        self._echo = method("unary_unary", "Echo", pb.EchoRequest)
        self._slow = method("unary_unary", "Slow", pb.SlowRequest)
        self._repeat = method("unary_stream", "Repeat", pb.RepeatRequest)
        self._chat = method("stream_stream", "Chat", pb.EchoRequest)
        self._kinds = {
            "echo": self._call_echo,
            "slow": self._call_slow,
            "repeat": self._call_repeat,
            "chat": self._call_chat,
            "cancel": self._call_cancel,
        }

    def run(self) -> None:
        while not self._over.wait(self._rng.uniform(*PAUSE)):
            self._one(self._rng.choice(self._plugins))

    def _one(self, plugin: str) -> None:
        kinds = ["echo", "slow"] if plugin in UNARY_ONLY else list(self._kinds)
        kind = self._rng.choice(kinds)
        self._number += 1
        key = f"{self._name}-{self._number}"
        began = time.monotonic()
        options = {
            "metadata": (("x-mesh-target", f"plugin.{plugin}"),),
            "timeout": DEADLINE,
            "wait_for_ready": True,
        }
        try:
            self._kinds[kind](key, options)
            outcome = "answered"
        except grpc.RpcError as exc:
            outcome = exc.code().name.lower()
            if kind == "echo" and not self._over.is_set():
                self.score.lost.append(f"{key} to {plugin}: {outcome}: {exc.details()}")
        self.score.outcomes[f"grpcio {kind} {outcome}"] += 1
        took = time.monotonic() - began
        if took > DEADLINE + MAX_DEADLINE_OVERRUN:
            self.score.late.append(f"{key} to {plugin} ended after {took:.1f} s")

    def _expect(self, key: str, expected: object, found: object) -> None:
        if found != expected:
            self.score.wrong.append(f"{key}: {found!r:.80} instead of {expected!r:.80}")

    def _call_echo(self, key: str, options: Any) -> None:
        self._expect(key, key, self._echo(pb.EchoRequest(message=key), **options).message)

    def _call_slow(self, key: str, options: Any) -> None:
        request = pb.SlowRequest(message=key, seconds=0.02)
        self._expect(key, key, self._slow(request, **options).message)

    def _call_repeat(self, key: str, options: Any) -> None:
        count = self._rng.randint(1, 200)
        replies = self._repeat(pb.RepeatRequest(message=key, count=count), **options)
        self._expect(key, [key] * count, [reply.message for reply in replies])

    def _call_chat(self, key: str, options: Any) -> None:
        texts = [f"{key}.{number}" for number in range(self._rng.randint(1, 50))]
        replies = self._chat(iter([pb.EchoRequest(message=text) for text in texts]), **options)
        self._expect(key, texts, [reply.message for reply in replies])

    def _call_cancel(self, key: str, options: Any) -> None:
        replies = self._repeat(pb.RepeatRequest(message=key, count=100_000), **options)
        self._expect(key, key, next(replies).message)
        replies.cancel()


def main() -> None:
    socket, seed, count, *names = sys.argv[1:]
    options = [("grpc.service_config", json.dumps({"methodConfig": RETRY_CONFIG["methodConfig"]}))]
    over = threading.Event()
    with grpc.insecure_channel(f"unix:{socket}", options) as channel:
        clients = [
            Client(f"g{seed}.{number}", channel, names, over) for number in range(int(count))
        ]
        threads = [threading.Thread(target=client.run, daemon=True) for client in clients]
        for thread in threads:
            thread.start()
        sys.stdin.read()
        over.set()
        end = time.monotonic() + _END_TIMEOUT
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
    score = Score()
    for client in clients:
        score.add(client.score)
    print(json.dumps(score.to_json()))


if __name__ == "__main__":
    main()
