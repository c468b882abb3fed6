"""A server of grpcio whose methods answer with any bytes, for plugins that must not be trusted."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
from typing import Any

import grpc

Answer = Callable[[Iterable[bytes]], Iterable[bytes]]


class _Methods(grpc.GenericRpcHandler):
    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers

    def service(self, details: Any) -> Any:
        answer = self._answers.get(details.method)
        if answer is None:
            return None
        return grpc.stream_stream_rpc_method_handler(lambda requests, _: iter(answer(requests)))


def serve(answers: Mapping[str, Answer]) -> None:
    """Serve methods, by path, each with what it answers to its requests, until SIGTERM."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    options = [("grpc.max_send_message_length", -1)]
    server = grpc.server(
        futures.ThreadPoolExecutor(16), handlers=[_Methods(answers)], options=options
    )
    server.add_insecure_port(f"unix:{os.environ['PLUGIN_SOCKET']}")
    server.start()
    stopped.wait()
    server.stop(0).wait()
