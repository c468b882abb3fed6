"""Spans to an OpenTelemetry collector, by OTLP: gRPC over meshtrio's own engine, or HTTP (extra
`tracing`).

Source: OpenTelemetry Protocol Specification 1.x, "OTLP/gRPC": a collector is a gRPC service like
any other, `opentelemetry.proto.collector.trace.v1.TraceService`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import purerpc
import trio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.sdk.trace import ReadableSpan

from meshtrio.client.channel import Channel, open_channel
from meshtrio.client.multicallable import make_multicallable
from meshtrio.client.subchannel_pool import StateCallback
from meshtrio.config.otlp_endpoint import OtlpEndpoint
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.service_state import ServiceState
from meshtrio.grpc.retry_policy import RetryPolicy
from meshtrio.grpc.service_config import MethodConfig
from meshtrio.rpc.method import Method
from meshtrio.telemetry.traces.batch_span_processor import (
    EXPORT_TIMEOUT,
    ExportSpans,
    PartialSuccess,
    SpanExportError,
)
from meshtrio.telemetry.traces.otlp_encoding import encode_export_request
from meshtrio.util.backoff import Backoff

_EXPORT_METHOD = Method(
    "opentelemetry.proto.collector.trace.v1.TraceService",
    "Export",
    trace_service_pb2.ExportTraceServiceRequest,
    trace_service_pb2.ExportTraceServiceResponse,
    client_streams=False,
    server_streams=False,
)
_EXPORT_METHOD_CONFIG = MethodConfig(
    retry_policy=RetryPolicy(
        max_attempts=4,
        backoff=Backoff(initial=0.2, maximum=2.0, multiplier=2.0, jitter=0.2),
        retryable_codes=frozenset(
            code.value
            for code in (
                purerpc.StatusCode.CANCELLED,
                purerpc.StatusCode.DEADLINE_EXCEEDED,
                purerpc.StatusCode.ABORTED,
                purerpc.StatusCode.OUT_OF_RANGE,
                purerpc.StatusCode.UNAVAILABLE,
                purerpc.StatusCode.DATA_LOSS,
            )
        ),
    )
)
"""The statuses after which the specification lets a client send the same again."""


@asynccontextmanager
async def open_exporter(collector: OtlpEndpoint) -> AsyncIterator[ExportSpans]:
    """What sends spans there, during the block."""
    if collector.url:
        from meshtrio.telemetry.traces.otlp_http_exporter import make_http_exporter  # few speak it

        yield make_http_exporter(collector)
        return
    address = collector.address
    endpoint = Endpoint(id=address, address=address, tls=collector.tls)
    state = ServiceState((endpoint,))

    async def feed(update: StateCallback) -> None:
        update(state)

    async with open_channel(
        address, feed, exit_info_timeout=0, metadata=collector.headers, traced=False
    ) as channel:
        yield _make_grpc_exporter(channel, address)


def _make_grpc_exporter(channel: Channel, address: str) -> ExportSpans:
    export = make_multicallable(channel, _EXPORT_METHOD)

    async def send(spans: Sequence[ReadableSpan]) -> PartialSuccess:
        # A batch takes its time, which is not the loop's.
        request = await trio.to_thread.run_sync(encode_export_request, spans)
        try:
            with trio.fail_after(EXPORT_TIMEOUT):
                reply = await export(request, method_config=_EXPORT_METHOD_CONFIG)
        except purerpc.RpcFailedError as exc:
            raise SpanExportError(f"the collector at {address}: {exc.status}") from None
        except trio.TooSlowError:
            why = f": {channel.unavailable_reason}" if channel.unavailable_reason else ""
            text = f"the collector at {address} did not take them within {EXPORT_TIMEOUT:g} s{why}"
            raise SpanExportError(text) from None
        return _partial_success(request, reply, len(spans), address)

    return send


def _partial_success(request: Any, reply: Any, count: int, address: str) -> PartialSuccess:
    sent = sum(len(scope.spans) for of in request.resource_spans for scope in of.scope_spans)
    partial = reply.partial_success
    rejected = max(0, min(partial.rejected_spans, sent))
    if rejected:
        why = f"the collector at {address} rejected {rejected}: {partial.error_message}"
        return PartialSuccess(count - sent + rejected, why)
    left_out = count - sent
    return PartialSuccess(
        left_out, f"{left_out} have a text that is not Unicode" if left_out else ""
    )
