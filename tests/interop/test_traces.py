"""One trace through plugins in different languages, as a collector sees it.

An app in this process calls plugin.a (meshtrio), which calls the one in the middle, which calls
plugin.b (meshtrio) through the mesh's gateway. What was sent is looked at once all has stopped:
each process sends what spans are left before it ends.

Spans are those of gRFC A72; grpc-go differs from meshtrio in what the gRFC leaves open:

- an attempt is an INTERNAL span, where ours is of the kind CLIENT;
- it has no attributes but those of the gRFC: ours name the method, the peer and the status's code;
- the description of a failure is its message alone, without the name of its status;
- calls of its health service that have no parent are recorded, too.

OpenTelemetry's instrumentation of grpcio goes by OpenTelemetry's own conventions instead: a span
for the call on either side, none for an attempt, no events of messages, a status only for failures,
and none at a server for those that are the caller's fault.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import product
from pathlib import Path

import attrs
import grpc
import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest
from opentelemetry import baggage, context
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from meshtrio.supervisor import events
from meshtrio.transport.listener import tcp_listener
from meshtrio.transport.tls import make_server_ssl_context
from tests.support.certificates import Certificates
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import PLUGINS_DIRECTORY, plugin_table
from tests.support.otlp_collector import OtlpCollector, ReceivedSpan, run_collector
from tests.tools import find_tool

ECHO = "echo.v1.EchoService.Echo"
PATH = "/echo.v1.EchoService/Echo"
SENT, ATTEMPT, RECV = f"Sent.{ECHO}", f"Attempt.{ECHO}", f"Recv.{ECHO}"
CLIENT, SERVER, INTERNAL = Span.SPAN_KIND_CLIENT, Span.SPAN_KIND_SERVER, Span.SPAN_KIND_INTERNAL
UNSET, OK, ERROR = Status.STATUS_CODE_UNSET, Status.STATUS_CODE_OK, Status.STATUS_CODE_ERROR
KEY = "open, 100% sesame="
"""To the collector that speaks TLS."""
ALWAYS = {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}
"""What a plugin says for itself; its parents go before it."""
BEHIND = [("plugin.b", RECV, SERVER)]
BEFORE = [
    ("plugin.a", ATTEMPT, CLIENT),
    ("plugin.a", SENT, CLIENT),
    ("plugin.a", RECV, SERVER),
    ("meshtrio", ATTEMPT, CLIENT),
    ("meshtrio", SENT, CLIENT),
]


@attrs.frozen
class MiddlePlugin:
    """A plugin in the middle of a chain, and the spans that it makes."""

    name: str
    command: list[str]
    spans: list[tuple[str, int]]
    fine: int
    """The status of the spans of a call that went well."""

    @property
    def service(self) -> str:
        return f"plugin.{self.name}"

    @property
    def chain(self) -> list[tuple[str, str, int]]:
        """The spans of a call through all, from its end to its beginning."""
        return [*BEHIND, *((self.service, name, kind) for name, kind in self.spans), *BEFORE]

    def table(self, **env: str) -> str:
        lines = [
            "[[plugin]]",
            f"name = {json.dumps(self.name)}",
            f"command = {json.dumps(self.command)}",
            'services = ["echo.v1.EchoService"]',
            "[plugin.env]",
            *(f"{key} = {json.dumps(value)}" for key, value in env.items()),
        ]
        return "\n".join([*lines, ""])


def go() -> MiddlePlugin:
    spans = [(ATTEMPT, INTERNAL), (SENT, CLIENT), (RECV, SERVER)]
    return MiddlePlugin("go", [find_tool("grpc-go-chain")], spans, OK)


def grpcio() -> MiddlePlugin:
    """Skips the test, or fails it in CI, where what traces it is missing."""
    try:
        importlib.metadata.version("opentelemetry-instrumentation-grpc")
    except importlib.metadata.PackageNotFoundError:
        text = "opentelemetry-instrumentation-grpc is missing: the extra `test` has it"
        if os.environ.get("CI"):
            pytest.fail(text)
        pytest.skip(text)
    command = ["{python}", str(PLUGINS_DIRECTORY / "grpcio_chain.py")]
    return MiddlePlugin("grpcio", command, [(PATH, CLIENT), (PATH, SERVER)], UNSET)


@pytest.fixture(params=["go", "grpcio"])
def middle(request: pytest.FixtureRequest) -> MiddlePlugin:
    return {"go": go, "grpcio": grpcio}[request.param]()


only_go = pytest.mark.parametrize("middle", ["go"], indirect=True)


@attrs.frozen
class Chain:
    collector: OtlpCollector
    watched: RecordedMesh

    async def call(self, service: str, message: str, compression: str = "identity") -> str:
        async with self.watched.mesh.connect(service) as channel:
            stub = channel.stub(EchoServiceStub)
            reply = await stub.Echo(EchoRequest(message=message), compression=compression)
            return str(reply.message)

    def received_by(self, service: str) -> ReceivedSpan:
        """The call that one of our plugins, or the one in Go, has served."""
        (found,) = [got for got in self.collector.spans_named(RECV) if got.service == service]
        return found

    @property
    def spans(self) -> list[ReceivedSpan]:
        """Return the spans of calls that are made through the chain."""
        return [got for got in self.collector.spans if got.name.endswith(("Service.Echo", PATH))]


@attrs.frozen
class CollectorAddress:
    """The address of a collector, for the config of a mesh and for the collector."""

    lines: str
    listener: Path | socket.socket
    ssl_context: ssl.SSLContext | None = None


@contextmanager
def collector_address(kind: str, folder: Path) -> Iterator[CollectorAddress]:
    if kind == "unix":
        yield CollectorAddress(f'traces = "unix:{folder / "c"}"', folder / "c")
        return
    with tcp_listener("tcp:127.0.0.1:0") as listener:
        where = f'traces = "tcp:127.0.0.1:{listener.getsockname()[1]}"'
        if kind == "tcp":
            yield CollectorAddress(where, listener)
            return
        path = Certificates.create(folder, "127.0.0.1").path
        files = {"ca": "ca.pem", "certificate": "client.pem", "key": "client.key"}
        tls = ", ".join(f"{key} = {json.dumps(path(name))}" for key, name in files.items())
        headers = f'traces_headers = {{ "API-Key" = "{KEY}" }}'
        context = make_server_ssl_context(path("server.pem"), path("server.key"), path("ca.pem"))
        yield CollectorAddress(f"{where}\ntraces_tls = {{ {tls} }}\n{headers}", listener, context)


@asynccontextmanager
async def run_chain(
    folder: Path, middle: str, *, where: str = "unix", sampling: float = 1.0
) -> AsyncIterator[Chain]:
    """Run a chain that can be called in the block; after it, only the collector runs."""
    ends = "".join(plugin_table(name, "proxy.py") for name in ("a", "b"))
    with collector_address(where, folder) as place:
        config = f"[mesh.telemetry]\n{place.lines}\nsampling = {sampling}\n"
        async with run_collector(place.listener, place.ssl_context) as collector:
            async with run_mesh(config + ends + middle, folder) as watched:
                await watched.wait_for_event(events.Ready, count=3)
                yield Chain(collector, watched)


def describe_span(got: ReceivedSpan) -> tuple[str, str, int]:
    return got.service, got.name, got.span.kind


@pytest.mark.parametrize(
    ("middle", "where"),
    [("go", "unix"), ("go", "tcp"), ("go", "tls"), ("grpcio", "unix"), ("grpcio", "tls")],
    indirect=["middle"],
)
async def test_a_plugin_in_the_middle(middle: MiddlePlugin, where: str, short_dir: Path) -> None:
    async with run_chain(short_dir, middle.table(), where=where) as chain:
        token = context.attach(baggage.set_baggage("tenant", "blue, or green"))
        reply = await chain.call("plugin.a", f"{middle.service} plugin.b baggage tenant")
        context.detach(token)
    assert reply == "blue, or green"
    upwards = chain.collector.path_to_root(chain.received_by("plugin.b"))
    assert [describe_span(got) for got in upwards] == middle.chain
    for got in upwards:
        fine = middle.fine if got.service == middle.service else OK
        assert got.span.status.code == fine
    trace = {got.span.trace_id for got in upwards}
    assert len(trace) == 1
    if where == "tls":
        assert all(("api-key", KEY) in got.metadata for got in chain.collector.spans)
    # Nothing else is in it: where the next plugin is, plugin.a learns by a watch of its own.
    found = Counter(
        describe_span(got) for got in chain.collector.spans if got.span.trace_id in trace
    )
    assert found == Counter(middle.chain)


def messages(got: ReceivedSpan, direction: str) -> list[dict[str, object]]:
    return [attributes for name, attributes in got.events if name == f"{direction} message"]


@only_go
@pytest.mark.parametrize("compression", ["identity", "gzip"])
async def test_go_tells_the_same_of_messages(
    middle: MiddlePlugin, compression: str, short_dir: Path
) -> None:
    """What one side has sent is, number by number, what the other has received."""
    async with run_chain(short_dir, middle.table()) as chain:
        message = "plugin.b " + "x" * 500
        assert await chain.call("plugin.go", message, compression) == "x" * 500
    upwards = chain.collector.path_to_root(chain.received_by("plugin.b"))
    b, go_attempt, _, go, attempt, _ = upwards
    for sender, receiver in ((attempt, go), (go, attempt), (go_attempt, b), (b, go_attempt)):
        assert len(messages(sender, "Outbound")) == 1
        assert messages(sender, "Outbound") == messages(receiver, "Inbound")
    keys = {"sequence-number", "message-size"}
    assert messages(b, "Inbound")[0].keys() == keys
    # By gRPC's default a reply is compressed as its request was.
    compressed = keys | ({"message-size-compressed"} if compression == "gzip" else set())
    assert messages(go, "Inbound")[0].keys() == compressed
    assert messages(go, "Outbound")[0].keys() == compressed
    retries = {"previous-rpc-attempts": 0, "transparent-retry": False}
    assert go_attempt.attributes == retries
    assert retries.items() <= attempt.attributes.items()


async def test_what_is_not_sampled_is_recorded_by_nobody(
    middle: MiddlePlugin, short_dir: Path
) -> None:
    """Though the one in the middle would record what has no parent."""
    async with run_chain(short_dir, middle.table(**ALWAYS), sampling=0.0) as chain:
        assert await chain.call("plugin.a", f"{middle.service} plugin.b hi") == "hi"
    assert not chain.spans
    if middle.name == "go":  # Its exporter is at work.
        assert chain.collector.spans_named("Recv.grpc.health.v1.Health.Check")


async def test_a_failure_marks_all_spans_up_to_the_app(
    middle: MiddlePlugin, short_dir: Path
) -> None:
    async with run_chain(short_dir, middle.table()) as chain:
        with pytest.raises(purerpc.NotFoundError, match="nobody is here"):
            await chain.call("plugin.a", f"{middle.service} plugin.b nobody")
    upwards = chain.collector.path_to_root(chain.received_by("plugin.b"))
    assert [describe_span(got) for got in upwards] == middle.chain
    for got in upwards:
        at_server = describe_span(got) == ("plugin.grpcio", PATH, SERVER)
        assert got.span.status.code == (UNSET if at_server else ERROR)
        if got.service != "plugin.go":
            assert got.attributes["rpc.grpc.status_code"] == 5
        if got.service != "plugin.grpcio":
            named = "" if got.service == "plugin.go" else "NOT_FOUND: "
            assert got.span.status.message == f"{named}nobody is here"


SPAN_ID, STATE = "b7ad6b7169203331", "one=1,two=t:2"


def ask_gateway(mesh: Path, target: str, message: str, trace_id: str, flags: str) -> str:
    """Call the gateway as a client without tracing."""
    metadata = (
        ("x-mesh-target", target),
        ("traceparent", f"00-{trace_id}-{SPAN_ID}-{flags}"),
        ("tracestate", STATE),
        ("baggage", "tenant=blue,other=x"),
    )
    with grpc.insecure_channel(f"unix:{mesh}") as channel:
        echo = channel.unary_unary(PATH, EchoRequest.SerializeToString, EchoReply.FromString)
        return str(echo(EchoRequest(message=message), metadata=metadata, timeout=60).message)


@only_go
async def test_the_gateway_passes_the_context_on_as_it_is(
    middle: MiddlePlugin, short_dir: Path
) -> None:
    messages = {"plugin.b": "baggage tenant", "plugin.go": "plugin.b baggage tenant"}
    asked = {
        (target, flags): f"{number:032x}"
        for number, (target, flags) in enumerate(product(messages, ("01", "00")), 1)
    }
    async with run_chain(short_dir, middle.table(**ALWAYS)) as chain:
        mesh = chain.watched.mesh.socket
        for (target, flags), trace_id in asked.items():
            values = mesh, target, messages[target], trace_id, flags
            assert await trio.to_thread.run_sync(ask_gateway, *values) == "blue"
    traces = {got.span.trace_id.hex() for got in chain.spans}
    assert traces == {trace_id for (_, flags), trace_id in asked.items() if flags == "01"}
    assert {got.span.trace_state for got in chain.spans} == {STATE}
    firsts = [got for got in chain.spans if got.span.parent_span_id.hex() == SPAN_ID]
    assert {(got.service, got.span.trace_id.hex()) for got in firsts} == {
        (target, trace_id) for (target, flags), trace_id in asked.items() if flags == "01"
    }
