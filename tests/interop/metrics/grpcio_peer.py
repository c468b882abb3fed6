"""grpcio with grpcio-observability, as a server or a client, in an environment that has both:
`python -m tests.interop.metrics.grpcio_peer serve|call SOCKET`. See `peer` for what it answers.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_observability import OpenTelemetryPlugin
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import Histogram, InMemoryMetricReader, Sum

from tests.interop.grpc_testing import interop_pb2 as pb
from tests.interop.metrics.constants import (
    CASE_RETRY_CONFIG,
    DEADLINE,
    SHORT_DEADLINE,
    SIZES,
    STREAM_MESSAGES,
    UNREACHABLE_TARGET,
)

SERVICE = "grpc.testing.TestService"
METHODS = {
    "EmptyCall": ("unary_unary", pb.Empty, pb.Empty),
    "UnaryCall": ("unary_unary", pb.SimpleRequest, pb.SimpleResponse),
    "UnimplementedCall": ("unary_unary", pb.Empty, pb.Empty),
    "StreamingInputCall": (
        "stream_unary",
        pb.StreamingInputCallRequest,
        pb.StreamingInputCallResponse,
    ),
    "StreamingOutputCall": (
        "unary_stream",
        pb.StreamingOutputCallRequest,
        pb.StreamingOutputCallResponse,
    ),
    "FullDuplexCall": (
        "stream_stream",
        pb.StreamingOutputCallRequest,
        pb.StreamingOutputCallResponse,
    ),
}
NOT_FOUND = pb.EchoStatus(code=5, message="no such thing")
DIE = pb.EchoStatus(code=13, message="die")
_CODES = {code.value[0]: code for code in grpc.StatusCode}


def body(size: int) -> Any:
    return pb.Payload(body=bytes(size))


# -- telling -----------------------------------------------------------------------------------


def told(reader: InMemoryMetricReader) -> dict[str, Any]:
    data = reader.get_metrics_data()
    scopes = [] if data is None else [s for r in data.resource_metrics for s in r.scope_metrics]
    families = [_family(metric) for scope in scopes for metric in scope.metrics]
    return {"families": families, "prometheus": ""}


def _family(metric: Any) -> dict[str, Any]:
    points = metric.data.data_points
    kind, bounds, told = "unknown", [], []
    if isinstance(metric.data, Sum):
        kind = "counter" if metric.data.is_monotonic else "gauge"
        told = [{"labels": dict(p.attributes), "counts": [], "sum": p.value} for p in points]
    elif isinstance(metric.data, Histogram):
        kind, bounds = "histogram", list(points[0].explicit_bounds) if points else []
        for p in points:
            counts = list(p.bucket_counts)
            told.append({"labels": dict(p.attributes), "counts": counts, "sum": p.sum})
    return {
        "name": metric.name,
        "unit": metric.unit,
        "kind": kind,
        "bounds": bounds,
        "points": told,
    }


# -- serving -----------------------------------------------------------------------------------


class Service:
    def __init__(self) -> None:
        self._times: Counter[str] = Counter()
        self._lock = threading.Lock()

    def EmptyCall(self, message: Any, context: Any) -> Any:
        return pb.Empty()

    def UnimplementedCall(self, message: Any, context: Any) -> Any:
        context.abort(grpc.StatusCode.UNIMPLEMENTED, "not implemented")

    def UnaryCall(self, message: Any, context: Any) -> Any:
        asked = dict(context.invocation_metadata())
        if asked.get("do") == "wait":
            over = threading.Event()
            if context.add_callback(over.set):
                over.wait()
        if asked.get("do") == "break":
            raise ValueError("a bug")
        with self._lock:
            self._times[asked.get("key", "")] += 1
            failing = self._times[asked.get("key", "")] <= int(asked.get("fail-times", 0))
        if failing:
            context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
        _fail_if_asked(message, context)
        if message.response_compressed.value:
            context.set_compression(grpc.Compression.Gzip)
        return pb.SimpleResponse(payload=body(message.response_size))

    def StreamingInputCall(self, messages: Iterator[Any], context: Any) -> Any:
        size = sum(len(message.payload.body) for message in messages)
        return pb.StreamingInputCallResponse(aggregated_payload_size=size)

    def StreamingOutputCall(self, message: Any, context: Any) -> Iterator[Any]:
        for parameters in message.response_parameters:
            yield pb.StreamingOutputCallResponse(payload=body(parameters.size))

    def FullDuplexCall(self, messages: Iterator[Any], context: Any) -> Iterator[Any]:
        for message in messages:
            if message.response_status.message == "die":
                os._exit(3)
            _fail_if_asked(message, context)
            yield from self.StreamingOutputCall(message, context)


def _fail_if_asked(message: Any, context: Any) -> None:
    if message.response_status.code:
        context.abort(_CODES[message.response_status.code], message.response_status.message)


def serve(socket: str) -> grpc.Server:
    service = Service()
    handlers = {
        name: getattr(grpc, f"{kind}_rpc_method_handler")(
            getattr(service, name), asked.FromString, answered.SerializeToString
        )
        for name, (kind, asked, answered) in METHODS.items()
    }
    server = grpc.server(ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    # As generated code does: such methods are told by name in the metrics.
    server.add_registered_method_handlers(SERVICE, handlers)
    server.add_insecure_port(f"unix:{socket}")
    server.start()
    return server


# -- calling -----------------------------------------------------------------------------------


class Caller:
    def __init__(self, socket: str) -> None:
        self._channel = _channel(f"unix:{socket}", CASE_RETRY_CONFIG)
        self._nobody = _channel(UNREACHABLE_TARGET, {})
        self._nobody_retried = _channel(UNREACHABLE_TARGET, CASE_RETRY_CONFIG)
        self._keys = itertools.count()
        self._calls: dict[str, Callable[[], Any]] = {
            "empty": lambda: self._method("EmptyCall")(pb.Empty()),
            "unary": lambda: self._unary(),
            "bounds": lambda: self._unary(1015, 1018),
            "gzip": self._gzip,
            "not_found": self._not_found,
            "broken": lambda: self._unary(metadata=[("do", "break")]),
            "unimplemented": lambda: self._method("UnimplementedCall")(pb.Empty()),
            "unknown": self._unknown,
            "requests": self._requests,
            "replies": lambda: list(self._method("StreamingOutputCall")(_outputs(SIZES))),
            "stream": lambda: self._talk(None),
            "stream_fails": lambda: self._talk(NOT_FOUND),
            "retried": lambda: self._unary(metadata=self._failing(2)),
            "retried_in_vain": lambda: self._unary(metadata=self._failing(9)),
            "deadline_unary": lambda: self._unary(metadata=[("do", "wait")], timeout=DEADLINE),
            "deadline_stream": lambda: self._talk(None, hold=True, timeout=DEADLINE),
            "cancelled": lambda: self._talk(None, cancel=True),
            "nobody": lambda: self._empty(self._nobody),
            "nobody_retried": lambda: self._empty(self._nobody_retried),
            "nobody_deadline": lambda: self._empty(
                self._nobody, wait_for_ready=True, timeout=SHORT_DEADLINE
            ),
            "peer_dies": lambda: self._talk(DIE),
        }

    def call(self, name: str) -> str:
        """The status that its caller sees."""
        try:
            self._calls[name]()
        except grpc.RpcError as exc:
            return str(exc.code().name)
        return "OK"

    def _method(self, name: str) -> Any:
        return _method(self._channel, name)

    def _empty(self, channel: grpc.Channel, **how: Any) -> None:
        _method(channel, "EmptyCall")(pb.Empty(), **how)

    def _unary(self, request: int = 2000, reply: int = 2000, **how: Any) -> None:
        message = pb.SimpleRequest(response_size=reply, payload=body(request))
        self._method("UnaryCall")(message, **how)

    def _gzip(self) -> None:
        compressed = pb.BoolValue(value=True)
        message = pb.SimpleRequest(
            response_size=2000, payload=body(2000), response_compressed=compressed
        )
        self._method("UnaryCall")(message, compression=grpc.Compression.Gzip)

    def _not_found(self) -> None:
        self._method("UnaryCall")(pb.SimpleRequest(response_status=NOT_FOUND))

    def _unknown(self) -> None:
        path = "/grpc.testing.UnimplementedService/UnimplementedCall"
        self._channel.unary_unary(
            path, pb.Empty.SerializeToString, pb.Empty.FromString, _registered_method=True
        )(pb.Empty())

    def _requests(self) -> None:
        requests = (pb.StreamingInputCallRequest(payload=body(size)) for size in SIZES)
        self._method("StreamingInputCall")(requests)

    def _failing(self, times: int) -> list[tuple[str, str]]:
        return [("fail-times", str(times)), ("key", f"grpcio-{next(self._keys)}")]

    def _talk(self, last: Any, *, hold: bool = False, cancel: bool = False, **how: Any) -> None:
        """Requests and replies by turns; then a request for a failure, a pause, or an end."""
        may_go_on = threading.Semaphore(1)
        over = threading.Event()

        def requests() -> Iterator[Any]:
            for size, sizes in STREAM_MESSAGES:
                may_go_on.acquire()
                yield _outputs(sizes, size)
            may_go_on.acquire()
            if last is not None:
                yield pb.StreamingOutputCallRequest(response_status=last)
            if hold:
                over.wait()

        call = self._method("FullDuplexCall")(requests(), **how)
        try:
            for _ in STREAM_MESSAGES:
                next(call)
                may_go_on.release()
            if cancel:
                call.cancel()
            for _ in call:
                pass
        finally:
            over.set()


def _channel(target: str, config: Any) -> grpc.Channel:
    return grpc.insecure_channel(target, options=[("grpc.service_config", json.dumps(config))])


def _method(channel: grpc.Channel, name: str) -> Any:
    kind, asked, answered = METHODS[name]
    make = getattr(channel, kind)
    path = f"/{SERVICE}/{name}"
    return make(path, asked.SerializeToString, answered.FromString, _registered_method=True)


def _outputs(sizes: tuple[int, ...], size: int = 0) -> Any:
    parameters = [pb.ResponseParameters(size=each) for each in sizes]
    return pb.StreamingOutputCallRequest(response_parameters=parameters, payload=body(size))


def main(role: str, socket: str) -> None:
    reader = InMemoryMetricReader()
    OpenTelemetryPlugin(meter_provider=MeterProvider([reader])).register_global()
    server = serve(socket) if role == "serve" else None
    caller = None if server is not None else Caller(socket)
    print('"ready"', flush=True)
    for line in sys.stdin:
        command = line.strip()
        answer = told(reader) if command == "metrics" or caller is None else caller.call(command)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3])
