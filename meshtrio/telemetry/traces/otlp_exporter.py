"""Export of spans to an OpenTelemetry collector: OTLP over gRPC, or over HTTP.

OTLP over gRPC is a unary call of meshtrio's own client to
`opentelemetry.proto.collector.trace.v1.TraceService`.

Source: OpenTelemetry Protocol Specification 1.x, "OTLP/gRPC".
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import purerpc
import trio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.sdk.trace import ReadableSpan

from meshtrio.client.channel import open_endpoint_channel
from meshtrio.client.multicallable import make_multicallable
from meshtrio.config.otlp_endpoint import OtlpEndpoint
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.grpc.service_config import MethodConfig, RetryPolicy
from meshtrio.grpc.status import StatusCode
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor
from meshtrio.telemetry.traces.batch_span_processor import ExportSpans, SpanExportError
from meshtrio.telemetry.traces.otlp_encoding import encode_export_request
from meshtrio.util.backoff import Backoff

_SERVICE = trace_service_pb2.DESCRIPTOR.services_by_name["TraceService"]
_EXPORT_METHOD = method_from_descriptor(_SERVICE.methods_by_name["Export"])
_RETRYABLE_CODES = frozenset(
    {
        *(StatusCode.CANCELLED, StatusCode.DEADLINE_EXCEEDED, StatusCode.ABORTED),
        *(StatusCode.OUT_OF_RANGE, StatusCode.UNAVAILABLE, StatusCode.DATA_LOSS),
    }
)
"""The statuses that the specification declares retryable."""
_EXPORT_METHOD_CONFIG = MethodConfig(
    retry_policy=RetryPolicy(
        max_attempts=4,
        backoff=Backoff(initial=0.2, maximum=2.0, multiplier=2.0, jitter=0.2),
        retryable_codes=_RETRYABLE_CODES,
    )
)


@asynccontextmanager
async def open_exporter(
    collector: OtlpEndpoint, timeout_seconds: float
) -> AsyncIterator[ExportSpans]:
    """Yield a function that exports batches of spans to a collector, for use in the block.

    `timeout_seconds` is for one batch, retries included.
    """
    if collector.url:
        from meshtrio.telemetry.traces.otlp_http_exporter import make_http_exporter

        yield make_http_exporter(collector, timeout_seconds)
        return
    address = collector.address
    endpoint = Endpoint(id=address, address=address, tls=collector.tls)

    async def export_batch(spans: Sequence[ReadableSpan]) -> tuple[int, str]:
        # Encoding takes too long for the event loop.
        request = await trio.to_thread.run_sync(encode_export_request, spans)
        try:
            with trio.fail_after(timeout_seconds):
                reply = await export(request, method_config=_EXPORT_METHOD_CONFIG)
        except purerpc.RpcFailedError as exc:
            raise SpanExportError(f"the collector at {address}: {exc.status}") from None
        except trio.TooSlowError:
            text = f"the collector at {address} did not take them within {timeout_seconds:g} s"
            reason = channel.picker.unavailable_reason
            raise SpanExportError(f"{text}: {reason}" if reason else text) from None
        return _count_rejected(request, reply, len(spans), address)

    async with open_endpoint_channel(endpoint, traced=False, metadata=collector.headers) as channel:
        export = make_multicallable(channel, _EXPORT_METHOD)
        yield export_batch


def _count_rejected(request: Any, reply: Any, count: int, address: str) -> tuple[int, str]:
    groups = (scope for each in request.resource_spans for scope in each.scope_spans)
    sent = sum(len(group.spans) for group in groups)
    partial = reply.partial_success
    rejected = max(0, min(partial.rejected_spans, sent))
    if rejected:
        message = f"the collector at {address} rejected {rejected}: {partial.error_message}"
        return count - sent + rejected, message
    if invalid := count - sent:
        return invalid, f"{invalid} have text that is not valid Unicode"
    return 0, ""
