"""A collector for tests: takes spans by OTLP over gRPC, and can be made to misbehave."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp
from opentelemetry.proto.trace.v1 import trace_pb2

from meshtrio.grpc.metadata import Metadata
from meshtrio.rpc.context import current_call
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.rpc.server import Server
from meshtrio.transport.listener import unix_listener
from meshtrio.util.concurrency import background_service


@attrs.frozen
class ReceivedSpan:
    """A span that arrived."""

    span: trace_pb2.Span
    service: str
    """The service.name of its resource."""
    metadata: Metadata
    """What it came with."""

    @property
    def name(self) -> str:
        return str(self.span.name)

    @property
    def attributes(self) -> dict[str, Any]:
        return attribute_values(self.span.attributes)

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        return [(event.name, attribute_values(event.attributes)) for event in self.span.events]


def attribute_values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


class OtlpCollector:
    def __init__(self) -> None:
        self.spans: list[ReceivedSpan] = []
        self.respond: Callable[[], Any] | None = None
        """What to answer instead: awaited, once the spans were taken."""
        self._changed = trio.lowlevel.ParkingLot()
        self.service = service_from_descriptor(
            otlp.DESCRIPTOR.services_by_name["TraceService"], self
        )

    async def Export(self, request: Any) -> Any:
        metadata = current_call().custom_metadata
        for resource in request.resource_spans:
            service = attribute_values(resource.resource.attributes).get("service.name", "")
            for scope in resource.scope_spans:
                self.spans += [ReceivedSpan(span, service, metadata) for span in scope.spans]
        self._changed.unpark_all()
        if self.respond is not None:
            return await self.respond()
        return otlp.ExportTraceServiceResponse()

    def spans_named(self, name: str) -> list[ReceivedSpan]:
        return [got for got in self.spans if got.name == name]

    async def wait_until(self, condition: Callable[[OtlpCollector], Any]) -> Any:
        """Wait until something is found in what has arrived, and give it."""
        with trio.fail_after(20):
            while True:
                answer = condition(self)
                if answer:
                    return answer
                await self._changed.park()

    async def wait_for_spans(self, name: str, count: int = 1) -> list[ReceivedSpan]:
        found: list[ReceivedSpan] = await self.wait_until(
            lambda _: self.spans_named(name) if len(self.spans_named(name)) >= count else []
        )
        return found

    def parent_of(self, got: ReceivedSpan) -> ReceivedSpan:
        """The one that a span is below."""
        (found,) = [
            other
            for other in self.spans
            if other.span.span_id == got.span.parent_span_id
            and other.span.trace_id == got.span.trace_id
        ]
        return found

    def path_to_root(self, got: ReceivedSpan) -> list[ReceivedSpan]:
        """A span, the one it is below, and so on up to the first of its trace."""
        found = [got]
        while found[-1].span.parent_span_id:
            found.append(self.parent_of(found[-1]))
        return found

    def names_to_root(self, got: ReceivedSpan) -> list[str]:
        """The names from a span up to the first of its trace."""
        return [each.name for each in self.path_to_root(got)]


@asynccontextmanager
async def run_collector(
    where: Path | socket.socket, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[OtlpCollector]:
    """Run one on a Unix socket, or on a socket that listens."""
    collector = OtlpCollector()
    with ExitStack() as stack:
        if isinstance(where, Path):
            where = stack.enter_context(unix_listener(where))
        async with background_service(
            partial(Server(collector).serve, ssl_context=ssl_context), where
        ):
            yield collector
