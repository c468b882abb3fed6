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

from meshtrio.backoff import Backoff
from meshtrio.client.calls import stub_method
from meshtrio.client.channel import Channel, open_channel
from meshtrio.client.endpoint import Endpoint, ServiceState
from meshtrio.client.pool import Update
from meshtrio.config.collector import Collector
from meshtrio.policies.retry import RetryPolicy
from meshtrio.policies.service_config import MethodConfig
from meshtrio.rpc.seam import Method
from meshtrio.telemetry.traces.encoding import encoded
from meshtrio.telemetry.traces.queue import PATIENCE, NotSentError, Rejected, Send

_EXPORT = Method(
    "opentelemetry.proto.collector.trace.v1.TraceService",
    "Export",
    trace_service_pb2.ExportTraceServiceRequest,
    trace_service_pb2.ExportTraceServiceResponse,
    client_streams=False,
    server_streams=False,
)
_RETRY = MethodConfig(
    retry=RetryPolicy(
        max_attempts=4,
        backoff=Backoff(initial=0.2, maximum=2.0, multiplier=2.0, jitter=0.2),
        codes=frozenset(
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
async def sending(collector: Collector) -> AsyncIterator[Send]:
    """What sends spans there, during the block."""
    if collector.url:
        from meshtrio.telemetry.traces.otlp_http import by_http  # few speak it

        yield by_http(collector)
        return
    address = collector.address
    endpoint = Endpoint(id=address, address=address, tls=collector.tls)
    state = ServiceState((endpoint,))

    async def feed(update: Update) -> None:
        update(state)

    async with open_channel(
        address, feed, obituary_wait=0, metadata=collector.headers, observed=False
    ) as channel:
        yield _by_grpc(channel, address)


def _by_grpc(channel: Channel, address: str) -> Send:
    export = stub_method(channel, _EXPORT)

    async def send(spans: Sequence[ReadableSpan]) -> Rejected:
        # A batch takes its time, which is not the loop's.
        request = await trio.to_thread.run_sync(encoded, spans)
        try:
            with trio.fail_after(PATIENCE):
                reply = await export(request, policy=_RETRY)
        except purerpc.RpcFailedError as exc:
            raise NotSentError(f"the collector at {address}: {exc.status}") from None
        except trio.TooSlowError:
            why = f": {channel.trouble}" if channel.trouble else ""
            text = f"the collector at {address} did not take them within {PATIENCE:g} s{why}"
            raise NotSentError(text) from None
        return _rejected(request, reply, len(spans), address)

    return send


def _rejected(request: Any, reply: Any, count: int, address: str) -> Rejected:
    sent = sum(len(scope.spans) for of in request.resource_spans for scope in of.scope_spans)
    partial = reply.partial_success
    rejected = max(0, min(partial.rejected_spans, sent))
    if rejected:
        why = f"the collector at {address} rejected {rejected}: {partial.error_message}"
        return Rejected(count - sent + rejected, why)
    left_out = count - sent
    return Rejected(left_out, f"{left_out} have a text that is not Unicode" if left_out else "")
