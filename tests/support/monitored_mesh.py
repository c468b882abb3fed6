"""A mesh in which much goes wrong, while a real Prometheus that knows the alerts scrapes it."""

from __future__ import annotations

import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import attrs

from tests.support.etcd_server import EtcdCluster, run_etcd
from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
    to_toml,
    wait_until,
)
from tests.support.ports import find_free_port
from tests.support.prometheus_server import Alert, Prometheus
from tests.support.scrapes import http_get

SERVICE_CONFIGS = """
[[service]]
name = "plugin.troubled"

[service.config]
[[service.config.methodConfig]]
name = [{ service = "echo.v1.EchoService", method = "Echo" }]
retryPolicy = { maxAttempts = 4, initialBackoff = "0.02s", maxBackoff = "0.05s", \
backoffMultiplier = 2, retryableStatusCodes = ["UNAVAILABLE"] }

[[service]]
name = "plugin.steady"

[service.config]
[[service.config.methodConfig]]
name = [{ service = "echo.v1.EchoService", method = "Slow" }]
hedgingPolicy = { maxAttempts = 2, hedgingDelay = "0.1s" }
"""
FREQUENT_LIVENESS = {"interval": 0.3, "timeout": 0.3, "failure_threshold": 2}
READY_INSTANCES = 13
"""Instances that get ready."""


def make_config(metrics: str, trigger_file: Path, etcd: EtcdCluster) -> str:
    def unruly(name: str, vice: str, **settings: Any) -> str:
        return plugin_table(
            name, "-S", "misbehaving.py", vice, env={"GO": str(trigger_file)}, **settings
        )

    quick = {"initial": 0.05, "maximum": 0.1}
    return "\n".join(
        [
            f'[mesh.telemetry]\nmetrics = "{metrics}"\nexperimental = true\n',
            f'[mesh.discovery]\netcd = {to_toml(etcd.endpoints)}\nnode = "monitored"\nttl = 5\n',
            echo_plugin_table("steady", start="fork", liveness={"interval": 0.5}),
            echo_plugin_table("victim", instances=2, backoff=quick),
            plugin_table("troubled", "failing_echo.py"),
            plugin_table("caller", "load_generator.py"),
            plugin_table("unborn", "startup_faults.py", "never-bind", ready_timeout=120.0),
            unruly("stuck", "none", instances=2, liveness=FREQUENT_LIVENESS),
            unruly("frozen", "none", liveness={"interval": 0}),
            unruly("crashing", "crash", backoff=quick, max_restarts=12),
            unruly("flooding", "flood", output={"lines_per_second": 5, "burst": 5}),
            unruly("deaf", "be-deaf", stop_timeout=0.3),
            unruly("refusing", "refuse", metrics="off", liveness={"interval": 0}),
            unruly(
                "grasping", "grasp", containment={"memory": 80_000_000, "rlimits": {"nofile": 60}}
            ),
            SERVICE_CONFIGS,
        ]
    )


EXPECTED_ALERTS: dict[str, set[str]] = {
    "": {
        *("MeshtrioAbsent", "MeshtrioLoopLate", "MeshtrioDescriptorsShort"),
        *("MeshtrioDiscoveryNotConnected", "MeshtrioNodeNotRegistered", "MeshtrioLeaseLost"),
    },
    "victim": {"MeshtrioInstanceKilled"},
    "stuck": {"MeshtrioHealthChecksFail", "MeshtrioInstanceKilledByMesh"},
    "frozen": {"MeshtrioMetricsMissing"},
    "crashing": {
        "MeshtrioInstanceRestartsOften",
        "MeshtrioInstanceGaveUp",
        "MeshtrioPluginDown",
    },
    "unborn": {"MeshtrioPluginDown", "MeshtrioInstanceNotReady"},
    "flooding": {"MeshtrioLogLinesDropped"},
    "deaf": {"MeshtrioStopForced"},
    "grasping": {"MeshtrioInstanceMemoryHigh", "MeshtrioInstanceDescriptorsShort"},
    "troubled": {"MeshtrioCallsFail", "MeshtrioCallsSlow"},
    "caller": {"MeshtrioClientCallsFail", "MeshtrioAttemptsRepeated"},
}
"""What is to fire for each plugin, and for the mesh, and nothing else, while all this happens."""
ALLOWED_ALERTS: set[Alert] = {
    ("MeshtrioDown", ""),  # the mesh is stopped for a while, to be late
    ("MeshtrioMetricsMissing", "stuck"),  # as long as it is not noticed
}
ALERTS_AFTER_RESTART = {("MeshtrioDown", ""), ("MeshtrioRestarted", "")}


@attrs.frozen
class MonitoringRun:
    """What Prometheus and the mesh showed during a run."""

    prometheus: Prometheus
    scraped_at: float
    """When the mesh was there with all that had happened to it."""
    exposition: str
    """By the mesh, then."""
    fired_alerts: set[Alert]
    """Until then."""
    alerts_after_kill: set[Alert]
    """What was firing for the killed plugin as soon as anything was."""
    alerts_after_restart: set[Alert]
    """When the mesh had been killed and started again."""


@contextmanager
def run_monitored_mesh(folder: Path) -> Iterator[MonitoringRun]:
    metrics = f"127.0.0.1:{find_free_port()}"
    prometheus = Prometheus(folder)
    go = folder / "go"
    with (
        prometheus.run(),
        run_etcd() as etcd,
        serve_mesh(folder, make_config(metrics, go, etcd), min_ready=READY_INSTANCES) as mesh,
    ):
        prometheus.wait_for_alerts({("MeshtrioAbsent", "")})
        _call(mesh)  # What begins with its first event has no rate of it.
        prometheus.set_target(metrics)
        wait_until(lambda: prometheus.query("sum(mesh_plugin_exits_total) == 0"))
        after_the_kill = _inject_faults(mesh, prometheus, go, etcd)
        at = prometheus.wait_for_scrape()
        exposed = http_get(f"http://{metrics}/metrics")[1].decode()
        fired = prometheus.fired_alerts(at)
        mesh.process.kill()
        wait_until(lambda: ("MeshtrioDown", "") in prometheus.firing_alerts())
        again = folder / "again"
        again.mkdir()
        with serve_mesh(again, f'[mesh.telemetry]\nmetrics = "{metrics}"\n'):
            prometheus.wait_for_alerts({("MeshtrioRestarted", "")})
        yield MonitoringRun(
            prometheus, at, exposed, fired, after_the_kill, prometheus.fired_alerts()
        )


def _inject_faults(
    mesh: MeshProcess, prometheus: Prometheus, trigger_file: Path, etcd: EtcdCluster
) -> set[Alert]:
    """Inject all faults; returns the first alerts for the plugin that is killed."""
    pids = {row["name"]: row["pid"] for row in mesh.ps()}
    with _suspend(mesh.process.pid):
        wait_until(lambda: prometheus.query('up{job="meshtrio"} == 0'))
    wait_until(lambda: prometheus.query('up{job="meshtrio"} == 1'))
    os.kill(pids["victim"], signal.SIGKILL)
    trigger_file.touch()
    etcd.members[0].kill()
    os.kill(pids["stuck"], signal.SIGSTOP)
    killed = wait_until(lambda: {a for a in prometheus.firing_alerts() if a[1] == "victim"})
    assert mesh.run_command("restart", "deaf").returncode == 0
    _call(mesh)
    with _suspend(pids["frozen"]), _exhaust_descriptors(mesh):
        prometheus.wait_for_alerts(
            {(name, p) for p, names in EXPECTED_ALERTS.items() for name in names}
        )
    return set(killed)


def _call(mesh: MeshProcess) -> None:
    """Make a call through the gateway, and one to a service without endpoints."""
    call = ("call", "plugin.steady", "echo.v1.EchoService/Echo", "{}")
    assert mesh.run_command(*call).returncode == 0
    assert mesh.run_command(*call, "-m", "x-mesh-target=nobody").returncode == 1


@contextmanager
def _suspend(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


CLIENT_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


@contextmanager
def _exhaust_descriptors(mesh: MeshProcess) -> Iterator[None]:
    """Open connections to the mesh until it is close to its limit of descriptors."""
    pid, connections = mesh.process.pid, 150

    def opened() -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    with ExitStack() as stack:
        at_first = opened()
        for _ in range(connections):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(mesh.socket))
            sock.sendall(CLIENT_HELLO)
        wait_until(lambda: opened() >= at_first + connections)
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (int(opened() / 0.85), before[1]))
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
