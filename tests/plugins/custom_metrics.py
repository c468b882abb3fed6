"""A plugin that measures something itself, by prometheus_client."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples" / "echo-plugin"))

from echo.v1.echo_grpc import EchoServiceServicer
from echo.v1.echo_pb2 import EchoReply
from prometheus_client import Counter, Histogram, Summary

from meshtrio import plugin

ASKED = Counter("asked", "How often it was asked.", ["what"])
LENGTH = Histogram("length", "Of messages.", buckets=(1, 10, 100))
SEEN = Summary("seen", "Of messages.")


class MeasuredEcho(EchoServiceServicer):
    async def Echo(self, request: Any) -> EchoReply:
        ASKED.labels(what="echo").inc()
        LENGTH.observe(len(request.message))
        SEEN.observe(len(request.message))
        return EchoReply(message=request.message)


plugin.run(MeasuredEcho())
