"""One scrape of a mesh shows the mesh and its plugins, whatever is asked of either."""

from __future__ import annotations

import contextlib
import gzip
import os
import signal
import socket
import subprocess
import sys
import urllib.error
from pathlib import Path

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics

from meshtrio.client.channel import Channel, connect_to
from meshtrio.client.multicallable import make_multicallable
from meshtrio.rpc.method import Method
from meshtrio.supervisor import events
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import (
    echo_plugin_table,
    plugin_table,
    run_meshtrio,
    serve_mesh,
    wait_until,
)
from tests.support.ports import find_free_port
from tests.support.proc import read_rss
from tests.support.scheduling_delay import SchedulingDelay
from tests.support.scrapes import (
    Scrape,
    http_get,
    make_metrics_config,
    scrape,
)

ECHO = "echo.v1.EchoService/Echo"


async def call(watched: RecordedMesh, service: str, times: int = 1) -> None:
    async with watched.mesh.connect(service) as channel:
        for _ in range(times):
            await channel.stub(EchoServiceStub).Echo(EchoRequest(message="hello"))


async def test_one_scrape_shows_the_mesh_its_clients_and_its_plugins(short_dir: Path) -> None:
    with make_metrics_config() as (table, url):
        config = table + echo_plugin_table(instances=2) + plugin_table("own", "custom_metrics.py")
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_for_event(events.Ready, count=3)
            await call(watched, "plugin.echo", times=3)
            await call(watched, "plugin.own", times=2)
            found = await scrape(url)
    served_calls = {"grpc_method": ECHO, "grpc_status": "OK"}
    assert (
        found.value("grpc_server_call_duration_seconds_count", plugin="echo", **served_calls) == 3
    )
    client = {"grpc_target": "mesh:///plugin.echo", **served_calls}
    assert found.value("grpc_client_call_duration_seconds_count", **client) == 3
    assert found.value("mesh_instance_state", state="ready") == 3
    assert found.value("mesh_registry_endpoints") == 3
    assert found.value("mesh_instance_in_flight") == 0
    assert found.value("mesh_instance_resident_memory_bytes", plugin="echo") > 1e7
    assert found.value("mesh_plugin_ready_duration_seconds_count", plugin="echo") == 2
    assert found.value("mesh_instance_max_descriptors", plugin="echo") > 100
    assert found.value("mesh_resident_memory_bytes") > 1e7
    # What the plugin measures itself comes with it.
    own = {"plugin": "own", "plugin_instance": "0"}
    assert found.value("asked_total", what="echo", **own) == 2
    assert found.value("length_bucket", le="10.0", **own) == 2
    assert found.value("seen_sum", **own) == 10


async def test_a_death_is_counted_with_its_cause(short_dir: Path) -> None:
    with make_metrics_config() as (table, url):
        config = table + echo_plugin_table(
            backoff={"initial": 0.01}, liveness={"interval": 0.2, "timeout": 0.2}
        )
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_for_event(events.Ready)
            before = await scrape(url)
            os.kill(watched.mesh.instances()[0].pid or 0, signal.SIGKILL)
            await watched.wait_for_event(events.Ready, count=2)
            os.kill(watched.mesh.instances()[0].pid or 0, signal.SIGSTOP)
            await watched.wait_for_event(events.Ready, count=3)
            after = await scrape(url)
    name = "mesh_instance_restarts_total"
    for reason in ("signal", "liveness"):
        assert before.value(name, plugin="echo", reason=reason) == 0
        assert after.value(name, plugin="echo", reason=reason) == 1
    assert after.value("mesh_instance_liveness_failures_total", plugin="echo") >= 3
    assert after.value("mesh_plugin_exits_total", plugin="echo") == 2


async def test_a_plugin_exposes_its_own_or_nothing_if_the_config_says_so(short_dir: Path) -> None:
    with make_metrics_config() as (table, url):
        port = find_free_port()  # Not the one before the mesh's: the plugin takes two in a row.
        config = (
            table
            + echo_plugin_table("alone", metrics=f"127.0.0.1:{port}")
            + echo_plugin_table("silent", metrics="off")
        )
        async with run_mesh(config, short_dir) as watched:
            before = await scrape(url)
            await watched.wait_for_event(events.Ready, count=2)
            await call(watched, "plugin.alone")
            of_mesh = await scrape(url)
            of_plugin = await scrape(f"http://127.0.0.1:{port}/metrics")
    labels = {"grpc_method": ECHO, "grpc_status": "OK"}
    assert of_plugin.value("grpc_server_call_duration_seconds_count", **labels) == 1
    assert not of_mesh.has_metric("grpc_server_call_started_total")
    assert of_mesh.value("mesh_collection_failures_total") == 0
    # There from the start, so that the first time is seen as a change.
    assert before.value("mesh_plugin_ready_duration_seconds_count", plugin="alone") == 0


async def test_a_plugin_that_does_not_answer_costs_its_own_figures(short_dir: Path) -> None:
    with make_metrics_config() as (table, url):
        config = (
            table + echo_plugin_table("well") + echo_plugin_table("stuck", liveness={"interval": 0})
        )
        async with run_mesh(config, short_dir) as watched:
            await watched.wait_for_event(events.Ready, count=2)
            (pid,) = [each.pid for each in watched.mesh.instances() if each.name == "stuck"]
            os.kill(pid or 0, signal.SIGSTOP)
            try:
                found = await scrape(url)
                # And it costs no more of the time than the scrape has.
                with SchedulingDelay() as late:
                    began = trio.current_time()
                    await scrape(url, X_Prometheus_Scrape_Timeout_Seconds="0.5")
                    took = trio.current_time() - began
            finally:
                os.kill(pid or 0, signal.SIGCONT)
    assert 0.25 <= took < 1.5 + late.allowance
    assert found.value("mesh_collection_failures_total", plugin="stuck") == 1
    assert found.value("grpc_server_call_started_total", plugin="well") > 0
    assert found.value("mesh_instance_state", plugin="stuck", state="ready") == 1


def test_every_form_is_understood(short_dir: Path) -> None:
    with (
        make_metrics_config() as (table, url),
        serve_mesh(short_dir, table + echo_plugin_table(), min_ready=1),
    ):
        kind = "application/openmetrics-text; version=1.0.0"
        response, body = http_get(url, Accept=kind)
        assert response.headers["content-type"].startswith("application/openmetrics-text")
        assert body.endswith(b"# EOF\n")
        assert Scrape.parse(body.decode(), openmetrics).value("mesh_info") == 1
        response, body = http_get(url, Accept_Encoding="gzip")
        assert response.headers["content-encoding"] == "gzip"
        assert Scrape.parse(gzip.decompress(body).decode()).value("mesh_info") == 1
        for odd in ("soon", "-1", "nan", "inf"):
            response, _ = http_get(url, X_Prometheus_Scrape_Timeout_Seconds=odd)
            assert response.status == 200
        with pytest.raises(urllib.error.HTTPError, match="404") as missing:
            http_get(url + "x")
        missing.value.close()


GARBAGE = [
    b"",
    b"\x00" * 100,
    b"GET /metrics HTTP/9.9\r\n\r\n",
    b"GET /metrics HTTP/1.1\r\nx: " + b"y" * 100_000,
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n",
]


def test_garbage_and_idle_connections_harm_nobody(short_dir: Path) -> None:
    with (
        make_metrics_config() as (table, url),
        serve_mesh(short_dir, table + echo_plugin_table(), min_ready=1) as found,
    ):
        port = int(url.split(":")[2].split("/")[0])
        for garbage in GARBAGE:
            with socket.create_connection(("127.0.0.1", port), 10) as sock:
                # Who refuses a request need not hear it to its end.
                with contextlib.suppress(OSError):
                    sock.sendall(garbage)
                    sock.shutdown(socket.SHUT_WR)
                wait_until(lambda sock=sock: _is_closed(sock))
        idle = [socket.create_connection(("127.0.0.1", port), 10) for _ in range(300)]
        try:
            # Those that are too many are closed at once.
            wait_until(lambda: sum(map(_is_closed, idle)) >= 280)
            descriptors = len(os.listdir(f"/proc/{found.process.pid}/fd"))
            assert descriptors < 100
        finally:
            for sock in idle:
                sock.close()
        wait_until(lambda: _answers(url))
        assert "Traceback" not in found.log
        assert found.stop() == 0


def _answers(url: str) -> bool:
    """Return whether metrics are served, which takes until closed connections are noticed."""
    try:
        return b"mesh_info" in http_get(url)[1]
    except OSError:
        return False


def _is_closed(sock: socket.socket) -> bool:
    sock.setblocking(False)
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True
    return True


ATTACKS = 100_000


@pytest.mark.long
def test_a_hundred_thousand_names_leave_memory_and_series_bounded(short_dir: Path) -> None:
    """At a plugin and at the mesh socket."""
    with (
        make_metrics_config() as (table, url),
        serve_mesh(short_dir, table + echo_plugin_table(), min_ready=1) as found,
    ):
        pids = {"plugin": found.ps()[0]["pid"], "mesh": found.process.pid}
        _, first = http_get(url)
        trio.run(attack, found.runtime_dir / "echo-0.sock", "s", 2000)
        trio.run(attack, found.runtime_dir / "mesh.sock", "s", 2000)
        before = {name: read_rss(pid) for name, pid in pids.items()}
        trio.run(attack, found.runtime_dir / "echo-0.sock", "p", ATTACKS // 2)
        trio.run(attack, found.runtime_dir / "mesh.sock", "m", ATTACKS // 2)
        _, last = http_get(url)
        grown = {name: read_rss(pid) - before[name] for name, pid in pids.items()}
    counted = Scrape.parse(last.decode())
    name = "grpc_server_call_started_total"
    assert counted.value(name, plugin="echo", grpc_method="other") >= ATTACKS // 2
    assert len(last) < 3 * len(first)
    assert len(counted.samples) < len(Scrape.parse(first.decode()).samples) + 600
    assert all(size < 8 * 1024 * 1024 for size in grown.values()), grown


async def attack(path: Path, mark: str, count: int) -> None:
    """Call many methods of many services with many metadata values, 50 at a time."""
    numbers = iter(range(count))

    async def call(channel: Channel) -> None:
        for number in numbers:
            method = Method(
                f"{mark}{number}.Service", f"M{number}", EchoRequest, EchoReply, False, False
            )
            metadata = ((f"key{number % 1000}", f"{mark}-{number}"),)
            with pytest.raises((purerpc.UnimplementedError, purerpc.NotFoundError)):
                await make_multicallable(channel, method)(EchoRequest(), metadata=metadata)

    async with connect_to(f"unix:{path}") as channel, trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(call, channel)


TABLE = '[mesh.telemetry]\nmetrics = "127.0.0.1:1"\n'


@pytest.mark.parametrize(
    ("table", "command"),
    [("", "serve {} --metrics 127.0.0.1:1"), (TABLE, "serve {}"), (TABLE, "check {}")],
)
def test_what_is_missing_is_named_with_its_extra(table: str, command: str, short_dir: Path) -> None:
    (short_dir / "mesh.toml").write_text(table + echo_plugin_table())
    arguments = ["meshtrio", *command.format(short_dir / "mesh.toml").split()]
    hide = "import sys; sys.modules['prometheus_client'] = None; import runpy, sys; "
    program = f"{hide}sys.argv = {arguments!r}; runpy.run_module('meshtrio', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert "pip install 'meshtrio[metrics]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_all_that_is_missing_is_named_at_once(short_dir: Path) -> None:
    (short_dir / "mesh.toml").write_text(TABLE + 'traces = "tcp:127.0.0.1:1"\n')
    hide = "sys.modules['prometheus_client'] = sys.modules['opentelemetry.sdk'] = None"
    run = f"sys.argv = ['meshtrio', 'check', '{short_dir / 'mesh.toml'}']; runpy.run_module"
    program = f"import runpy, sys; {hide}; {run}('meshtrio', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2
    assert [line.rpartition(" ")[2] for line in done.stderr.splitlines()] == [
        "'meshtrio[tracing]'",
        "'meshtrio[metrics]'",
    ]


def test_a_port_that_is_taken_is_told_with_whose_it_was_to_be(short_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        (short_dir / "mesh.toml").write_text(f'[mesh.telemetry]\nmetrics = "{where}"\n')
        serve = ["serve", str(short_dir / "mesh.toml"), "--runtime-dir", str(short_dir / "run")]
        done = run_meshtrio(*serve)
    assert done.returncode == 2
    said = f"[mesh.telemetry] metrics: tcp:{where}: cannot be bound: Address already in use"
    assert done.stderr.splitlines()[-1] == f"meshtrio: {said}"


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ('[mesh.telemetry]\nmetrics = "localhost"\n', "must be host:port"),
        ("[mesh.telemetry]\nmetrics = 9464\n", "must be text in quotes"),
        ('[mesh.telemetry]\nmetric = "x"\n', "did you mean 'metrics'"),
        (echo_plugin_table(metrics="everywhere"), "must be mesh, off or host:port"),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(
    table: str, words: str, short_dir: Path
) -> None:
    (short_dir / "mesh.toml").write_text(table)
    done = run_meshtrio("check", str(short_dir / "mesh.toml"))
    assert done.returncode == 2
    assert words in done.stderr
