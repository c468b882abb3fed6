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

from meshtrio.rpc.current import current_call
from meshtrio.rpc.dynamic import service_of
from meshtrio.rpc.listener import unix_listener
from meshtrio.rpc.server import Server
from meshtrio.structured import running
from meshtrio.wire.grpc import Metadata


@attrs.frozen
class Got:
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
        return values(self.span.attributes)

    @property
    def events(self) -> list[tuple[str, dict[str, Any]]]:
        return [(event.name, values(event.attributes)) for event in self.span.events]


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


class Collector:
    def __init__(self) -> None:
        self.spans: list[Got] = []
        self.answer: Callable[[], Any] | None = None
        """What to answer instead: awaited, once the spans were taken."""
        self._changed = trio.lowlevel.ParkingLot()
        self.service = service_of(otlp.DESCRIPTOR.services_by_name["TraceService"], self)

    async def Export(self, request: Any) -> Any:
        metadata = current_call().custom_metadata
        for resource in request.resource_spans:
            service = values(resource.resource.attributes).get("service.name", "")
            for scope in resource.scope_spans:
                self.spans += [Got(span, service, metadata) for span in scope.spans]
        self._changed.unpark_all()
        if self.answer is not None:
            return await self.answer()
        return otlp.ExportTraceServiceResponse()

    def named(self, name: str) -> list[Got]:
        return [got for got in self.spans if got.name == name]

    async def wait(self, found: Callable[[Collector], Any]) -> Any:
        """Wait until something is found in what has arrived, and give it."""
        with trio.fail_after(20):
            while True:
                answer = found(self)
                if answer:
                    return answer
                await self._changed.park()

    async def wait_for(self, name: str, count: int = 1) -> list[Got]:
        found: list[Got] = await self.wait(
            lambda _: self.named(name) if len(self.named(name)) >= count else []
        )
        return found

    def parent(self, got: Got) -> Got:
        """The one that a span is below."""
        (found,) = [
            other
            for other in self.spans
            if other.span.span_id == got.span.parent_span_id
            and other.span.trace_id == got.span.trace_id
        ]
        return found

    def upwards(self, got: Got) -> list[Got]:
        """A span, the one it is below, and so on up to the first of its trace."""
        found = [got]
        while found[-1].span.parent_span_id:
            found.append(self.parent(found[-1]))
        return found

    def ancestry(self, got: Got) -> list[str]:
        """The names from a span up to the first of its trace."""
        return [each.name for each in self.upwards(got)]


@asynccontextmanager
async def collecting(
    where: Path | socket.socket, ssl_context: ssl.SSLContext | None = None
) -> AsyncIterator[Collector]:
    """Run one on a Unix socket, or on a socket that listens."""
    collector = Collector()
    with ExitStack() as stack:
        if isinstance(where, Path):
            where = stack.enter_context(unix_listener(where))
        async with running(partial(Server(collector).serve, ssl_context=ssl_context), where):
            yield collector
