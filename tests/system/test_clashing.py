"""grpcurl at a mesh whose plugins each have a common.proto of their own, and their health."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

from tests.support.mesh_processes import MeshProcess, plugin_table, serve_mesh, wait_until
from tests.tools import find_tool


def grpcurl(
    mesh: MeshProcess, *arguments: str, data: object = None
) -> subprocess.CompletedProcess[str]:
    options = [] if data is None else ["-d", json.dumps(data)]
    return subprocess.run(
        [find_tool("grpcurl"), "-plaintext", *options, f"unix:{mesh.socket}", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def health(mesh: MeshProcess, service: str) -> str:
    """Return the health of a service at the mesh socket: a status, or an error's code."""
    done = grpcurl(mesh, "grpc.health.v1.Health/Check", data={"service": service})
    if done.returncode:
        return next(line for line in done.stderr.splitlines() if "Code:" in line).split()[-1]
    return str(json.loads(done.stdout)["status"])


def test_both_plugins_are_described_and_called(short_dir: Path) -> None:
    config = "".join(plugin_table(name, "conflicting_protos.py", name) for name in ("one", "two"))
    with serve_mesh(short_dir, config, min_ready=2) as mesh:
        listed = grpcurl(mesh, "list").stdout.split()
        assert {"one.Service", "two.Service"} <= set(listed)
        for name in ("one", "two"):
            described = grpcurl(mesh, "describe", f"{name}.Service")
            assert "rpc Echo" in described.stdout, described
            given = {
                "field_1": {f"of_{name}": "hi"},
                "field_2": {"shared": {f"of_{name}": "there"}},
            }
            done = grpcurl(mesh, f"{name}.Service/Echo", data=given)
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == given
        everything = grpcurl(mesh, "describe")
        assert everything.returncode == 0, everything.stderr
        assert "one.Service is a service" in everything.stdout
        assert "two.Service is a service" in everything.stdout
        for symbol in ("common.Shared", "between.Wrapper", "two.Echoed"):
            assert grpcurl(mesh, "describe", symbol).returncode == 0


def test_the_mesh_answers_for_the_health_of_its_plugins(short_dir: Path) -> None:
    config = plugin_table("one", "conflicting_protos.py", "one", restart="never")
    config += plugin_table("late", "startup_faults.py", "exit-at-once", restart="never")
    with serve_mesh(short_dir, config, min_ready=1) as mesh:
        mesh.wait_for_log("not restarted (restart policy)")
        assert health(mesh, "") == "SERVING"
        assert health(mesh, "meshtrio.v1.Control") == "SERVING"
        assert health(mesh, "plugin.one") == "SERVING"
        assert health(mesh, "one.Service") == "SERVING"
        assert health(mesh, "plugin.late") == "NOT_SERVING"
        assert health(mesh, "plugin.nobody") == "NotFound"
        assert health(mesh, "no.such.Service") == "NotFound"
        pid = next(row["pid"] for row in mesh.ps() if row["name"] == "one")
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: health(mesh, "plugin.one") == "NOT_SERVING")
        assert health(mesh, "one.Service") == "NOT_SERVING"
        mesh.run_command("start", "one")
        wait_until(lambda: health(mesh, "one.Service") == "SERVING")
