"""A shop in trouble: a mesh in which everything that can happen to a plugin has happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.dashboards import Dashboard, dashboard_table, serve_dashboard
from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    plugin_table,
    service_table,
    wait_until,
)
from tests.support.ports import find_free_port

QUICKLY = {"initial": 0.05, "maximum": 0.05}
GIVES_UP = """
import sys
print("connecting to smtp.shop.example", flush=True)
print("Traceback (most recent call last):", file=sys.stderr)
sys.exit("ConnectionRefusedError: nobody listens at smtp.shop.example")
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True:
    print("packing", flush=True)
    time.sleep(1)
"""
GROUP = """
[[group]]
name = "warehouse"
members = ["stock", "archiver"]
strategy = "one-for-one"
"""
EXPECTED_STATES = {
    "catalog": {"ready"},
    "payments": {"ready"},
    "customer": {"ready"},
    "stock": {"unready"},
    "archiver": {"stopping"},
    "mailer": {"failed"},
    "search": {"backoff"},
    "reports": {"idle"},
    "legacy": {"stopped"},
    "import-orders": {"failed"},
    "migrate": {"completed"},
}
"""What `meshtrio ps` shows of each plugin in the end."""


def task_table(name: str, code: str, **settings: Any) -> str:
    """Return a [[task]] table of a program for `python -c`."""
    table = plugin_table(name, "-c", code, start="exec", **settings)
    return table.replace("[[plugin]]", "[[task]]").replace('start = "exec"\n', "")


def make_config(not_serving: Path) -> str:
    """Return the config; `stock` reports NOT_SERVING once a file is there."""
    held = {"start": "on-demand", "listen_fds": True}
    outliers = {
        "loadBalancingConfig": [
            {
                "outlier_detection_experimental": {
                    "consecutiveFailures": 3,
                    "maxEjectionPercent": 50,
                    "baseEjectionTime": "300s",
                    "childPolicy": [{"least_request_experimental": {}}],
                }
            }
        ]
    }
    return "\n".join(
        [
            echo_plugin_table("catalog", instances=3),
            plugin_table(
                "payments",
                "shop_payments.py",
                instances=2,
                env={"DATABASE_PASSWORD": "hunter2", "REGION": "eu"},
            ),
            plugin_table("customer", "shop_customer.py"),
            plugin_table(
                "stock",
                "changing_health.py",
                str(not_serving),
                services=["shop.v1.Stock"],
                liveness={"interval": 0.1},
            ),
            plugin_table("archiver", "-c", DEAF, ready="started", stop_timeout=600),
            plugin_table("mailer", "-c", GIVES_UP, max_restarts=2, backoff=QUICKLY),
            plugin_table(
                "search",
                "-c",
                "raise SystemExit('index is locked by pid 17')",
                backoff={"initial": 600, "maximum": 600},
            ),
            echo_plugin_table("reports", **held),
            plugin_table("legacy", "-c", "import time; time.sleep(600)", ready="started"),
            task_table("migrate", "print('3 tables migrated')"),
            task_table("import-orders", "raise SystemExit('orders.csv: no such file')"),
            service_table("billing", endpoints=[f"tcp://127.0.0.1:{find_free_port()}"]),
            service_table("plugin.payments", config=outliers),
            GROUP,
        ]
    )


@contextmanager
def serve_troubled_mesh(folder: Path, *, control: bool = False) -> Iterator[Dashboard]:
    """Serve the shop, and its dashboard, in trouble."""
    not_serving = folder / "not-serving"
    config = dashboard_table(control=control) + make_config(not_serving)
    with serve_dashboard(folder, config, min_ready=8) as dashboard:
        mesh = dashboard.mesh
        _wait_for_states(mesh, {"mailer", "search", "import-orders", "migrate"})
        assert mesh.run_command("stop", "legacy").returncode == 0
        _kill(mesh, "catalog")
        assert mesh.run_command("restart", "catalog").returncode == 0
        not_serving.touch()
        with _stopping(mesh, "archiver"):
            _wait_for_states(mesh, set(EXPECTED_STATES))
            yield dashboard


def _wait_for_states(mesh: MeshProcess, names: set[str]) -> None:
    wanted = {name: EXPECTED_STATES[name] for name in names}
    found: dict[str, set[str]] = {}

    def are_as_expected() -> bool:
        found.clear()
        for row in mesh.ps():
            found.setdefault(row["name"], set()).add(row["state"])
        return wanted.items() <= found.items()

    try:
        wait_until(are_as_expected)
    except AssertionError:
        raise AssertionError(f"{found}\n{mesh.log}") from None


def _kill(mesh: MeshProcess, name: str) -> None:
    """Kill the plugin's first instance, and wait until it is ready again."""
    row = next(row for row in mesh.ps() if row["name"] == name)
    os.kill(row["pid"], signal.SIGKILL)
    wait_until(
        lambda: any(
            each["restarts"] and each["state"] == "ready"
            for each in mesh.ps()
            if each["name"] == name
        )
    )


@contextmanager
def _stopping(mesh: MeshProcess, name: str) -> Iterator[None]:
    """Have the mesh stop a plugin that ignores SIGTERM, for the block."""
    command = [sys.executable, "-m", "meshtrio", "stop", name]
    with subprocess.Popen(command, env=mesh.environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()
