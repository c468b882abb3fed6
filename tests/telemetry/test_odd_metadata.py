"""Metadata that gRPC does not specify, in all that looks at calls: none of it may fail them."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.context import Context

from meshtrio.client.channel import connect_to
from meshtrio.grpc.metadata import Metadata, ReceivedText
from meshtrio.messages import tap
from meshtrio.rpc.context import current_call
from meshtrio.rpc.method import Message
from meshtrio.rpc.server import Server
from meshtrio.services.tap import TapServicer
from meshtrio.telemetry.binary_log import open_binary_log
from meshtrio.telemetry.logs.formatters import current_trace_ids, format_json_line
from meshtrio.telemetry.traces.propagation import encode_context_headers, extract_context
from tests.support.binary_logs import entry_metadata as metadata_of
from tests.support.binary_logs import read_entries
from tests.support.connection_pairs import CallbackServicer, echo_reply, echo_request
from tests.support.servers import serve_on_socket
from tests.support.tracing import PARENT_TRACEPARENT, TracingHarness

_text = st.text(st.characters(max_codepoint=0xFF, blacklist_characters="\0\r\n"), max_size=40)
_pieces = st.sampled_from(
    [PARENT_TRACEPARENT, "a=1", "a=1,b=2", "vendor@x=y\t", "k=caf\xe9", "=", ",;", "\x7f"]
)
_values = st.one_of(_text, st.lists(_pieces, max_size=4).map(",".join)).map(ReceivedText)
_keys = st.sampled_from(["traceparent", "tracestate", "baggage"])


@given(st.lists(st.tuples(_keys, _values), max_size=6).map(tuple))
@settings(max_examples=300, deadline=None)
def test_trace_context_of_any_kind_is_taken_or_left(metadata: Metadata) -> None:
    block, keys = encode_context_headers(extract_context(metadata, Context()))
    assert isinstance(block, bytes)
    assert keys <= {"traceparent", "tracestate", "baggage"}


ODD: Metadata = (
    ("traceparent", PARENT_TRACEPARENT),
    ("tracestate", ReceivedText("a=1,\tb=caf\xe9")),
    ("baggage", ReceivedText("who=caf\xc3\xa9,\x01")),
    (ReceivedText("x!odd"), ReceivedText("\xff\x7f\t.")),
    ("x-long", "v" * 9000),
    ("grpc-trace-bin", bytes(range(256))),
    ("grpc-retry-pushback-ms", "soon"),
)


async def test_calls_are_traced_tapped_and_logged_all_the_same(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Metadata] = []

    async def end(message: EchoRequest, request: Any) -> EchoReply:
        seen.append(request.custom_metadata)
        return echo_reply("end")

    async def first(message: EchoRequest, request: Any) -> EchoReply:
        request.initial_metadata = request.trailing_metadata = request.custom_metadata
        logging.getLogger("handler").warning("%s", dict(current_call().custom_metadata))
        current_trace_ids()
        return await onward.Echo(message)

    stopped = trio.Event()
    server = Server(CallbackServicer(Echo=first))
    tapped = TapServicer(server, stopped)
    found = TracingHarness()
    async with AsyncExitStack() as stack:
        logs = short_dir / "logs"
        await stack.enter_async_context(
            open_binary_log("*", logs, name="n", max_file_size=10**6, max_files=2)
        )
        stack.enter_context(found.tracing.install())
        await stack.enter_async_context(
            serve_on_socket(short_dir / "b", Server(CallbackServicer(Echo=end)))
        )
        behind = await stack.enter_async_context(connect_to(f"unix:{short_dir / 'b'}"))
        onward = behind.stub(EchoServiceStub)
        await stack.enter_async_context(serve_on_socket(short_dir / "a", server))
        channel = await stack.enter_async_context(connect_to(f"unix:{short_dir / 'a'}"))
        watch: AsyncIterator[Message] = tapped.Watch(tap.WatchCallsRequest())
        await anext(watch)
        _, outcome = await channel.stub(EchoServiceStub).Echo.with_call(
            echo_request("hi"), metadata=ODD
        )
        # The parent of the call that is served is the one that the client's tracer made.
        assert {**dict(outcome.trailing_metadata), "traceparent": PARENT_TRACEPARENT} == dict(ODD)
        calls: Any = await anext(watch)
        assert calls.calls[0].status == 0
        await watch.aclose()  # type: ignore[attr-defined]
    assert found.spans_named("Recv.")
    assert dict(seen[0])["grpc-trace-bin"] == bytes(range(256))
    written = [
        pair for path in logs.iterdir() for entry in read_entries(path) for pair in pairs(entry)
    ]
    assert ("x!odd", b"\xff\x7f\t.") in written
    assert json.loads(format_json_line({"metadata": dict(ODD)}, 100_000))


def pairs(entry: Any) -> list[tuple[str, bytes]]:
    kind = entry.WhichOneof("payload")
    return metadata_of(entry) if kind in ("client_header", "server_header", "trailer") else []


def test_a_propagator_whose_text_cannot_be_sent_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from opentelemetry import propagate

    def inject(carrier: dict[str, str], context: Context) -> None:
        carrier |= {"X-Good": "1", "x-bad": "caf\xe9", "grpc-own": "1", "x-bin": "text"}

    monkeypatch.setattr(propagate, "inject", inject)
    block, keys = encode_context_headers(Context())
    assert keys == {"x-good"}
    assert b"x-good" in block
