"""Traces across processes: an app, plugins that call plugins, and the mesh that runs them."""

from __future__ import annotations

import gzip
import http.server
import os
import queue
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from pathlib import Path

import pytest
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as otlp

from meshtrio.errors import PluginDiedError
from meshtrio.supervisor import events
from meshtrio.transport.tls import make_server_ssl_context
from tests.support.certificates import Certificates
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import (
    echo_plugin_table,
    plugin_table,
    run_meshtrio,
    serve_mesh,
    wait_until,
)
from tests.support.otlp_collector import OtlpCollector, ReceivedSpan, run_collector

SENT, RECV = "Sent.echo.v1.EchoService.Echo", "Recv.echo.v1.EchoService.Echo"
ATTEMPT = "Attempt.echo.v1.EchoService.Echo"
AT_ONCE = {"initial": 0.01}


def tracing_to(where: str, sampling: float = 1.0) -> str:
    return f'[mesh.telemetry]\ntraces = "{where}"\nsampling = {sampling}\n'


async def call(watched: RecordedMesh, service: str, message: str) -> str:
    async with watched.mesh.connect(service) as channel:
        reply = await channel.stub(EchoServiceStub).Echo(EchoRequest(message=message))
        return str(reply.message)


async def test_app_to_plugin_to_plugin_is_one_trace(short_dir: Path) -> None:
    plugins = "".join(plugin_table(name, "proxy.py") for name in ("a", "b"))
    config = tracing_to(f"unix:{short_dir / 'c'}") + plugins
    async with run_collector(short_dir / "c") as collector:
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_for_event(events.Ready, count=2)
            assert await call(watched, "plugin.a", "plugin.b hi") == "hi"
            found = await collector.wait_until(find_complete_call)
    assert collector.names_to_root(found) == [RECV, ATTEMPT, SENT, RECV, ATTEMPT, SENT]
    # Nothing of what the plugin's channels share, such as their watch of the registry.
    trace = [got for got in collector.spans if got.span.trace_id == found.span.trace_id]
    assert not [got.name for got in trace if got.name.endswith("Watch")]
    services = [got.service for got in collector.spans if got.name in (SENT, RECV)]
    assert sorted(services) == ["meshtrio", "plugin.a", "plugin.a", "plugin.b"]


def find_complete_call(collector: OtlpCollector) -> ReceivedSpan | None:
    """Return the last call of the chain, once all its spans have arrived."""
    calls = [got for got in collector.spans if got.name in (SENT, ATTEMPT, RECV)]
    if len(calls) < 6:
        return None
    return next(got for got in calls if got.name == RECV and got.service == "plugin.b")


async def test_a_call_failed_by_the_end_of_a_process_links_to_its_run(short_dir: Path) -> None:
    config = tracing_to(f"unix:{short_dir / 'c'}") + plugin_table("a", "proxy.py", backoff=AT_ONCE)
    async with run_collector(short_dir / "c") as collector:
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_for_event(events.Ready)
            with pytest.raises(PluginDiedError):
                await call(watched, "plugin.a", "die")
            await watched.wait_for_event(events.Ready, count=2)
            (run,) = await collector.wait_for_spans("run a/0")
            (sent,) = await collector.wait_for_spans(SENT)
            (attempt,) = await collector.wait_for_spans(ATTEMPT)
            started = await collector.wait_for_spans("start a/0", count=2)
        (_, second) = await collector.wait_for_spans("run a/0", count=2)
    for span in (sent, attempt):
        assert [(link.trace_id, link.span_id) for link in span.span.links] == [
            (run.span.trace_id, run.span.span_id)
        ]
        assert span.attributes["rpc.grpc.status_code"] == 14
    assert run.attributes["meshtrio.exit.cause"] == "signal"
    assert run.attributes["meshtrio.exit.signal"] == 9
    assert [name for name, _ in run.events] == ["ready", "exit"]
    assert collector.parent_of(started[0]) is run
    # The next run links to this one, and records how it was stopped.
    assert second.span.links[0].span_id == run.span.span_id
    assert second.attributes["meshtrio.exit.cause"] == "stopped"


async def test_sampling_is_by_the_parent(short_dir: Path) -> None:
    plugins = "".join(plugin_table(name, "proxy.py") for name in ("a", "b"))
    config = tracing_to(f"unix:{short_dir / 'c'}", sampling=0.2) + plugins
    async with run_collector(short_dir / "c") as collector:
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_for_event(events.Ready, count=2)
            for _ in range(100):
                await call(watched, "plugin.a", "plugin.b hi")
    traces: dict[bytes, int] = {}
    for got in collector.spans:
        if got.name in (SENT, ATTEMPT, RECV):
            traces[got.span.trace_id] = traces.get(got.span.trace_id, 0) + 1
    assert set(traces.values()) == {6}
    assert 5 <= len(traces) <= 40


async def test_a_plugins_own_variables_go_before_the_meshs(short_dir: Path) -> None:
    env = {"OTEL_TRACES_EXPORTER": "none"}
    config = tracing_to(f"unix:{short_dir / 'c'}") + plugin_table("a", "proxy.py", env=env)
    async with run_collector(short_dir / "c") as collector:
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_for_event(events.Ready)
            await call(watched, "plugin.a", "hi")
            await collector.wait_for_spans(SENT)
    assert not collector.spans_named(RECV)


Arrived = queue.Queue[tuple[Message, otlp.ExportTraceServiceRequest]]


@contextmanager
def http_collector(ssl_context: ssl.SSLContext | None = None) -> Iterator[tuple[int, Arrived]]:
    """Run an OTLP/HTTP collector; yields its port, and a queue of headers and requests."""
    arrived: Arrived = queue.Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                arrived.put((self.headers, otlp.ExportTraceServiceRequest.FromString(body)))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if ssl_context is not None:
            server.socket = ssl_context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_address[1], arrived
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("secure", [False, True])
def test_by_http_with_the_stock_exporter(secure: bool, short_dir: Path) -> None:
    context, more = None, ""
    if secure:
        path = Certificates.create(short_dir, "127.0.0.1").path
        context = make_server_ssl_context(path("server.pem"), path("server.key"), path("ca.pem"))
        files = {"ca": "ca.pem", "certificate": "client.pem", "key": "client.key"}
        more = "[mesh.telemetry.traces_tls]\n"
        more += "".join(f'{key} = "{path(name)}"\n' for key, name in files.items())
    with http_collector(context) as (port, arrived):
        config = tracing_to(f"http{'s' * secure}://127.0.0.1:{port}")
        config += 'traces_headers = { API-Key = "open, sesame" }\n' + more
        with serve_mesh(short_dir, config + echo_plugin_table(), min_ready=1) as found:
            found.run_command(
                "call", "plugin.echo", "echo.v1.EchoService/Echo", '{"message": "hi"}'
            )
            names: set[str] = set()
            while not {"start echo/0", RECV} <= names:
                headers, request = arrived.get(timeout=60)
                assert headers["api-key"] == "open, sesame"
                names |= span_names(request)
            assert found.stop() == 0


def span_names(request: otlp.ExportTraceServiceRequest) -> set[str]:
    return {
        span.name
        for resource in request.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    }


def test_told_to_stop_again_and_again_it_still_sends_what_is_left(short_dir: Path) -> None:
    """As by systemd, which signals all of a cgroup, and by those who press Ctrl-C twice."""
    with http_collector() as (port, arrived):
        config = tracing_to(f"http://127.0.0.1:{port}") + echo_plugin_table()
        with serve_mesh(short_dir, config, min_ready=1) as mesh:
            mesh.run_command("call", "plugin.echo", "echo.v1.EchoService/Echo", '{"message": "hi"}')
            told = [os.pidfd_open(pid) for pid in (mesh.process.pid, mesh.ps()[0]["pid"])]

            def ended_though_told_again() -> bool:
                for pidfd in told:
                    with suppress(ProcessLookupError):
                        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
                return mesh.process.poll() is not None

            wait_until(ended_though_told_again)
            for pidfd in told:
                os.close(pidfd)
            assert mesh.process.returncode == 0
            assert "1 processes stopped in time, 0 were killed" in mesh.log
            assert "by SIGTERM" not in mesh.log
    names: set[str] = set()
    while not arrived.empty():
        names |= span_names(arrived.get()[1])
    assert {RECV, "run echo/0"} <= names


def test_a_collector_that_is_not_there_delays_neither_start_nor_stop(short_dir: Path) -> None:
    config = tracing_to(f"unix:{short_dir / 'nobody'}") + echo_plugin_table()
    with serve_mesh(short_dir, config, min_ready=1) as found:
        done = found.run_command(
            "call", "plugin.echo", "echo.v1.EchoService/Echo", '{"message": "hi"}'
        )
        assert done.returncode == 0
        assert found.stop() == 0


def test_what_is_missing_is_named_with_its_extra(short_dir: Path) -> None:
    (short_dir / "mesh.toml").write_text(tracing_to("tcp:127.0.0.1:1") + echo_plugin_table())
    hide = "import sys; sys.modules['opentelemetry.sdk'] = None; import runpy; "
    run = "sys.argv = ['meshtrio', 'serve', sys.argv[1], '--runtime-dir', sys.argv[2]]; "
    program = hide + run + "runpy.run_module('meshtrio', run_name='__main__')"
    arguments = [str(short_dir / "mesh.toml"), str(short_dir / "run")]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert "pip install 'meshtrio[tracing]'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (tracing_to("collector"), "expected tcp:host:port, unix:/path or http://host:port"),
        (tracing_to("tcp:127.0.0.1:4317", 2), "sampling: must be between 0 and 1"),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(
    table: str, words: str, short_dir: Path
) -> None:
    (short_dir / "mesh.toml").write_text(table)
    done = run_meshtrio("check", str(short_dir / "mesh.toml"))
    assert done.returncode == 2
    assert words in done.stderr


def test_a_variable_that_is_wrong_is_told_without_a_traceback(short_dir: Path) -> None:
    (short_dir / "mesh.toml").write_text(tracing_to("tcp:127.0.0.1:1"))
    serve = ["serve", str(short_dir / "mesh.toml"), "--runtime-dir", str(short_dir / "run")]
    done = run_meshtrio(*serve, env={**os.environ, "OTEL_PROPAGATORS": "nonsense"})
    assert done.returncode == 2
    assert "calls cannot be traced: Propagator nonsense not found" in done.stderr
    assert "Traceback" not in done.stderr
