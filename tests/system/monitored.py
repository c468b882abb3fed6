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

from tests.programs import Served, echo, plugin, served, until
from tests.system.prometheus_server import Alert, Prometheus
from tests.system.scrapes import fetch, free_port

TOLERANT = """
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
OFTEN = {"interval": 0.3, "timeout": 0.3, "threshold": 2}
READY = 13
"""Instances that get ready."""


def config(metrics: str, go: Path) -> str:
    def unruly(name: str, vice: str, **settings: Any) -> str:
        return plugin(name, "-S", "unruly.py", vice, env={"GO": str(go)}, **settings)

    quick = {"initial": 0.05, "maximum": 0.1}
    return "\n".join(
        [
            f'[mesh.telemetry]\nmetrics = "{metrics}"\nexperimental = true\n',
            echo("steady", liveness={"interval": 0.5}),
            echo("victim", instances=2, backoff=quick),
            plugin("troubled", "troubled.py"),
            plugin("caller", "calling.py"),
            plugin("unborn", "faulty.py", "never-bind", ready_timeout=120.0),
            unruly("stuck", "none", instances=2, liveness=OFTEN),
            unruly("frozen", "none", liveness={"interval": 0}),
            unruly("crashing", "crash", backoff=quick, max_restarts=12),
            unruly("flooding", "flood", output={"lines_per_second": 5, "burst": 5}),
            unruly("deaf", "be-deaf", stop_timeout=0.3),
            unruly("refusing", "refuse", metrics="off", liveness={"interval": 0}),
            unruly(
                "grasping", "grasp", containment={"memory": 80_000_000, "rlimits": {"nofile": 60}}
            ),
            TOLERANT,
        ]
    )


EXPECTED: dict[str, set[str]] = {
    "": {"MeshtrioAbsent", "MeshtrioLoopLate", "MeshtrioDescriptorsShort"},
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
ALLOWED: set[Alert] = {
    ("MeshtrioDown", ""),  # the mesh is stopped for a while, to be late
    ("MeshtrioMetricsMissing", "stuck"),  # as long as it is not noticed
}
AT_THE_END = {("MeshtrioDown", ""), ("MeshtrioRestarted", "")}


@attrs.frozen
class Scene:
    """What there was to see."""

    prometheus: Prometheus
    at: float
    """When the mesh was there with all that had happened to it."""
    exposed: str
    """By the mesh, then."""
    fired: set[Alert]
    """Until then."""
    after_the_kill: set[Alert]
    """What was firing for the killed plugin as soon as anything was."""
    at_the_end: set[Alert]
    """When the mesh had been killed and started again."""


@contextmanager
def scene(folder: Path) -> Iterator[Scene]:
    metrics = f"127.0.0.1:{free_port()}"
    prometheus = Prometheus(folder)
    go = folder / "go"
    with prometheus.running(), served(folder, config(metrics, go), ready=READY) as mesh:
        prometheus.wait_for({("MeshtrioAbsent", "")})
        _call(mesh)  # What begins with its first event has no rate of it.
        prometheus.scrape(metrics)
        until(lambda: prometheus.query("sum(mesh_plugin_exits_total) == 0"))
        after_the_kill = _harm(mesh, prometheus, go)
        at = prometheus.next_scrape()
        exposed = fetch(f"http://{metrics}/metrics")[1].decode()
        fired = prometheus.fired(at)
        mesh.process.kill()
        until(lambda: ("MeshtrioDown", "") in prometheus.firing())
        again = folder / "again"
        again.mkdir()
        with served(again, f'[mesh.telemetry]\nmetrics = "{metrics}"\n'):
            prometheus.wait_for({("MeshtrioRestarted", "")})
        yield Scene(prometheus, at, exposed, fired, after_the_kill, prometheus.fired())


def _harm(mesh: Served, prometheus: Prometheus, go: Path) -> set[Alert]:
    """Do it all; gives what fires first for the plugin that is killed."""
    pids = {row["name"]: row["pid"] for row in mesh.ps()}
    with _stopped(mesh.process.pid):
        until(lambda: prometheus.query('up{job="meshtrio"} == 0'))
    until(lambda: prometheus.query('up{job="meshtrio"} == 1'))
    os.kill(pids["victim"], signal.SIGKILL)
    go.touch()
    os.kill(pids["stuck"], signal.SIGSTOP)
    killed = until(lambda: {a for a in prometheus.firing() if a[1] == "victim"})
    assert mesh.run("restart", "deaf").returncode == 0
    _call(mesh)
    with _stopped(pids["frozen"]), _short_of_descriptors(mesh):
        prometheus.wait_for({(name, p) for p, names in EXPECTED.items() for name in names})
    return set(killed)


def _call(mesh: Served) -> None:
    """Have the gateway pass on a call, and one that nobody serves."""
    call = ("call", "plugin.steady", "echo.v1.EchoService/Echo", "{}")
    assert mesh.run(*call).returncode == 0
    assert mesh.run(*call, "-m", "x-mesh-target=nobody").returncode == 1


@contextmanager
def _stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


CLIENT_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"


@contextmanager
def _short_of_descriptors(mesh: Served) -> Iterator[None]:
    """Somebody who opens connections to the mesh and closes none, under a limit that is near."""
    pid, connections = mesh.process.pid, 150

    def opened() -> int:
        return len(os.listdir(f"/proc/{pid}/fd"))

    with ExitStack() as stack:
        at_first = opened()
        for _ in range(connections):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.connect(str(mesh.socket))
            sock.sendall(CLIENT_HELLO)
        until(lambda: opened() >= at_first + connections)
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (int(opened() / 0.85), before[1]))
        try:
            yield
        finally:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
