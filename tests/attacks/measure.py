"""One attack on a mesh of its own: memory of mesh and plugin, latencies of a bystander."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs

from tests import ROOT
from tests.attacks.cases import Case
from tests.attacks.memory import reset_peak, resident_and_peak
from tests.support.mesh_processes import pids_with_environment, plugin_table, wait_until

PROGRAMS = ROOT / "tests" / "attacks" / "programs"
WARM_UP_SECONDS = 3.0
"""Seconds of calls before the attack, of which nothing is reported but that they succeed."""
COOL_DOWN_SECONDS = 4.0
"""Seconds of calls after it."""
MAX_MEMORY = 5000.0
"""MiB at which a measured process is killed, which its peak then shows."""
START_TIMEOUT = 120.0
STOP_TIMEOUT = 60.0


@attrs.frozen
class Latency:
    """Of the bystander's calls, in milliseconds."""

    p50: float
    p99: float
    longest: float
    failed: int

    @classmethod
    def from_report(cls, report: dict[str, Any], *ways: str) -> Latency:
        """Summarize these ways of calling, and calls that are not answered yet."""
        found = sorted(s for way in (*ways, "waiting") for s in report["seconds"].get(way, ()))
        failed = sum(report["failed"].get(way, [0])[0] for way in ways)
        if not found:
            return cls(0.0, 0.0, 0.0, failed)
        p99 = found[min(len(found) - 1, int(len(found) * 0.99))]
        return cls(statistics.median(found) * 1e3, p99 * 1e3, found[-1] * 1e3, failed)


CALL_KINDS = ("direct", "gateway")


@attrs.frozen
class AttackCost:
    """What an attack has cost. Memory is MiB, resident."""

    mesh_start: float
    mesh_peak: float
    mesh_after: float
    plugin_start: float
    plugin_peak: float
    plugin_after: float
    during: Latency
    """Calls through the gateway and straight to the plugin."""
    after: Latency
    new_channels: Latency
    """Channels that were opened during the attack and after it, each with a first call."""
    bystander_cpu: float
    """CPU time of the bystander during the attack, as a fraction of one core."""
    plugin_deaths: int
    mesh_alive: bool


class Measurement:
    """A mesh, its plugin `echo` and a bystander, run by the Python of a checkout."""

    def __init__(self, case: Case, python: str, folder: Path) -> None:
        self._case = case
        self._python = python
        self._folder = folder
        self._run = folder / "run"
        self._go = folder / "go"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._metrics = f"127.0.0.1:{free.getsockname()[1]}"
        self._environment = {
            **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
            "ATTACK_GO": str(self._go),
            "ATTACK_METRICS": self._metrics,
        }

    def run(self, seconds: float) -> AttackCost:
        """Measure before, during and after the attack."""
        with ExitStack() as stack:
            mesh = stack.enter_context(self._mesh())
            (echo,) = wait_until(self._plugins, START_TIMEOUT)
            bystander = stack.enter_context(self._bystander())
            time.sleep(WARM_UP_SECONDS)
            _report(bystander)
            start = [resident_and_peak(pid)[0] for pid in (mesh.pid, echo)]
            for pid in (mesh.pid, echo):
                reset_peak(pid)
            with _MemoryGuard(mesh.pid, echo):
                self._attack(seconds)
            during = _report(bystander)
            time.sleep(COOL_DOWN_SECONDS)
            peaks = [resident_and_peak(pid)[1] for pid in (mesh.pid, echo)]
            after = _report(bystander)
            rest = [resident_and_peak(pid)[0] for pid in (mesh.pid, *self._plugins()[:1])]
            alive = mesh.poll() is None
        return AttackCost(
            mesh_start=start[0],
            mesh_peak=peaks[0],
            mesh_after=rest[0],
            plugin_start=start[1],
            plugin_peak=peaks[1],
            plugin_after=rest[1] if len(rest) > 1 else 0.0,
            during=Latency.from_report(during, *CALL_KINDS),
            after=Latency.from_report(after, *CALL_KINDS),
            new_channels=_new_channels(during, after),
            bystander_cpu=during["cpu"],
            plugin_deaths=self._log().count("echo/0: pid") - self._log().count("echo/0: started"),
            mesh_alive=alive,
        )

    @contextmanager
    def _mesh(self) -> Iterator[subprocess.Popen[bytes]]:
        config = plugin_table("echo", "{programs}/plugin.py", "echo", **self._case.echo_settings)
        extra = self._case.config.split("[[plugin]]")[0]
        config = (extra + config + self._case.config[len(extra) :]).replace(
            "{programs}", str(PROGRAMS)
        )
        config = config.replace("{run}", str(self._run)).replace("{metrics}", self._metrics)
        path = self._folder / "mesh.toml"
        path.write_text(config)
        command = [self._python, "-m", "meshtrio", "serve", str(path)]
        with (self._folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--runtime-dir", str(self._run)],
                stdout=log,
                stderr=log,
                cwd=self._folder,
                env=self._environment,
                start_new_session=True,
            )
        try:
            count = config.count("[[plugin]]")
            wait_until(
                lambda: self._log().count("ready after") >= count or process.poll() is not None,
                START_TIMEOUT,
            )
            assert process.poll() is None, self._log()
            yield process
        finally:
            self._stop(process)

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for pid in pids_with_environment(f"PLUGIN_SOCKET={self._run}/"):
            os.kill(pid, signal.SIGKILL)

    @contextmanager
    def _bystander(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [self._python, str(PROGRAMS / "bystander.py")]
        with subprocess.Popen(
            [*command, str(self._run / "mesh.sock"), self._case.bystander_service],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._folder,
            env=self._environment,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def _attack(self, seconds: float) -> None:
        socket_name = "mesh.sock" if self._case.to_gateway else "echo-0.sock"
        command = [sys.executable, "-m", "tests.attacks.launch", self._case.module]
        subprocess.run(
            [*command, f"unix:{self._run / socket_name}", str(seconds)],
            cwd=ROOT,
            env=self._environment,
            check=False,
        )

    def _plugins(self) -> list[int]:
        return pids_with_environment(f"PLUGIN_SOCKET={self._run}/echo-0")

    def _log(self) -> str:
        return (self._folder / "log").read_text(errors="replace")


class _MemoryGuard:
    """Kills the measured processes, during a block, if they take more than MAX_MEMORY."""

    def __init__(self, *pids: int) -> None:
        self._pids = pids
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._stopped.wait(0.2):
            for pid in self._pids:
                if resident_and_peak(pid)[0] > MAX_MEMORY:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()


def _report(bystander: subprocess.Popen[bytes]) -> dict[str, Any]:
    assert bystander.stdin is not None
    assert bystander.stdout is not None
    bystander.stdin.write(b"\n")
    bystander.stdin.flush()
    found: dict[str, Any] = json.loads(bystander.stdout.readline())
    return found


def _new_channels(*reports: dict[str, Any]) -> Latency:
    way = "new channel"
    seconds = [s for report in reports for s in report["seconds"].get(way, ())]
    failed = [report["failed"].get(way, [0])[0] for report in reports]
    return Latency.from_report({"seconds": {way: seconds}, "failed": {way: [sum(failed)]}}, way)


def measure(case: Case, python: str, seconds: float) -> AttackCost:
    """Measure an attack of `seconds` on a mesh that `python` runs."""
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        return Measurement(case, python, Path(folder)).run(seconds)
