"""grpc-go: a program of its own, which `python -m tests.benchmarks.grpc_go` builds."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from tests.benchmarks.grpc_go import PROGRAM, measure
from tests.benchmarks.peers.base import LARGE, Measurement


class GrpcGo:
    name = "grpc-go"

    def serve(self, address: str) -> None:
        os.execv(PROGRAM, [str(PROGRAM), "serve", address])

    def run(self, case: Callable[..., Measurement], *arguments: Any) -> Measurement:
        return case(*arguments)

    def unary(self, address: str, request: Any, width: int, seconds: float) -> Measurement:
        return Measurement(**measure("unary", address, seconds, width, len(request.message)))

    def unary_with_deadline(self, address: str, seconds: float) -> Measurement:
        return Measurement(**measure("deadline", address, seconds))

    def unary_with_metadata(self, address: str, seconds: float) -> Measurement:
        return Measurement(**measure("metadata", address, seconds))

    def paced(self, address: str, rate: int, seconds: float) -> Measurement:
        return Measurement(**measure("paced", address, seconds, rate))

    def stream(self, address: str, seconds: float) -> Measurement:
        return Measurement(**measure("stream", address, seconds))

    def generator_stream(self, address: str, seconds: float) -> Measurement:
        """A goroutine sends what a generator would give: Go's way to write it."""
        return Measurement(**measure("generator", address, seconds))

    def client_stream(self, address: str, seconds: float) -> Measurement:
        return Measurement(**measure("client-stream", address, seconds))

    def server_stream(self, address: str, seconds: float) -> Measurement:
        return Measurement(**measure("server-stream", address, seconds))

    def download(self, address: str, seconds: float) -> Measurement:
        return Measurement(**measure("download", address, seconds, size=len(LARGE.message)))

    def connect(self, address: str, seconds: float) -> Measurement:
        return Measurement(**measure("connect", address, seconds))
