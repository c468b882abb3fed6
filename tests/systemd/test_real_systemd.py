"""meshtrio serve as a service of a real systemd, which is PID 1 of namespaces of its own."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import ROOT
from tests.docs.blocks import parse_blocks
from tests.support.mesh_processes import (
    ECHO_PLUGIN_DIRECTORY,
    MINIMAL_COMMAND,
    plugin_table,
    wait_until,
)
from tests.support.real_systemd import Systemd, mesh_service, running_systemd
from tests.support.service_managers import BLOCKING_MESH

pytestmark = pytest.mark.long

P = plugin_table("p", *MINIMAL_COMMAND)
_GET_METRICS = """\
from urllib.request import urlopen
print(urlopen("http://127.0.0.1:9464/metrics", timeout=60).read().decode())
"""
GET_METRICS = [sys.executable, "-c", _GET_METRICS]
_SLOW = """\
import runpy, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(float(sys.argv[2])), sys.exit()))
time.sleep(float(sys.argv[1]))
runpy.run_path(sys.argv[3], run_name="__main__")
"""


@pytest.fixture(scope="module")
def example() -> Iterator[Path]:
    """The folder that is /opt/example for systemd, as the how-to has it."""
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        program = Path(name, "venv", "bin", "meshtrio")
        program.parent.mkdir(parents=True)
        command = "PYTHONPATH=/opt/meshtrio exec /opt/python/bin/python -B -m meshtrio"
        program.write_text(f'#!/bin/sh\n{command} "$@"\n')
        program.chmod(0o755)
        shutil.copytree(ECHO_PLUGIN_DIRECTORY, name, dirs_exist_ok=True)
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def systemd(example: Path) -> Iterator[Systemd]:
    with running_systemd(example) as found:
        yield found


def slow_plugin(folder: Path, *, start: float, stop: float) -> str:
    (folder / "slow.py").write_text(_SLOW)
    command = ("-I", "-S", str(folder / "slow.py"), str(start), str(stop), MINIMAL_COMMAND[-1])
    return plugin_table("slow", *command, ready_timeout=60, stop_timeout=60)


def test_start_reload_and_stop_that_take_longer_than_the_unit_allows(
    systemd: Systemd, short_dir: Path
) -> None:
    broken = plugin_table("broken", "-c", "raise SystemExit(3)", restart="never")
    (short_dir / "mesh.toml").write_text(slow_plugin(short_dir, start=13, stop=8) + broken)
    # Long enough for the imports on a busy machine, and shorter than the plugin.
    timeouts = ["Type=notify", "TimeoutStartSec=10", "TimeoutStopSec=5"]
    systemd.add_unit("mesh.service", mesh_service(short_dir, *timeouts))
    after = (
        "[Unit]\nDefaultDependencies=no\nAfter=mesh.service\n"
        f"[Service]\nType=oneshot\nExecStart=cp {short_dir}/log {short_dir}/seen\n"
    )
    systemd.add_unit("after.service", after)
    systemd.systemctl("start", "mesh.service", "after.service")
    # What is ordered after the mesh is started once the plugins are ready.
    assert "ready after" in (short_dir / "seen").read_text()
    status = systemd.get("mesh.service", "StatusText")
    assert status == "1 of 2 plugins ready; broken failed: exited with status 3"

    (short_dir / "mesh.toml").write_text(slow_plugin(short_dir, start=12, stop=8) + P)
    systemd.systemctl("reload", "mesh.service")
    systemd.wait_for("mesh.service", ActiveState="active", StatusText="2 of 2 plugins ready")
    (short_dir / "mesh.toml").write_text("[[plugin]]")
    assert systemd.run("systemctl", "reload", "mesh.service", check=False).returncode == 1
    systemd.wait_for("mesh.service", ActiveState="active")
    wait_until(lambda: "last reload failed: " in systemd.get("mesh.service", "StatusText"))

    systemd.systemctl("stop", "mesh.service")
    assert systemd.get("mesh.service", "Result") == "success"
    assert systemd.get("mesh.service", "ExecMainStatus") == "0"


def test_a_mesh_that_is_stuck_is_restarted(systemd: Systemd, short_dir: Path) -> None:
    (short_dir / "mesh.toml").write_text(P)
    (short_dir / "blocking.py").write_text(BLOCKING_MESH)
    lines = ["Type=notify", "WatchdogSec=5", "Restart=on-failure", "LimitCORE=0"]
    unit = mesh_service(short_dir, *lines, program=f"{short_dir}/blocking.py")
    systemd.add_unit("stuck.service", unit)
    systemd.systemctl("start", "stuck.service")
    where = (f"PYTHONPATH={ROOT}", f"MESH_SOCKET={short_dir}/run/mesh.sock")
    listed = systemd.run("env", *where, sys.executable, "-m", "meshtrio", "ps", "--json").stdout
    (row,) = json.loads(listed)
    assert row["state"] == "ready"
    systemd.run("sh", "-c", f"kill -KILL {row['pid']}")
    wait_until(lambda: systemd.get("stuck.service", "NRestarts") != "0")
    systemd.wait_for("stuck.service", ActiveState="active")
    log = (short_dir / "log").read_text()
    assert "Fatal Python error: Aborted" in log
    assert " in block\n" in log
    systemd.systemctl("stop", "stuck.service")


def test_connections_wait_while_the_service_restarts(systemd: Systemd, short_dir: Path) -> None:
    (short_dir / "mesh.toml").write_text(
        '[mesh.gateway]\nlisten = "tcp:127.0.0.1:7443"\nsecurity = "plaintext"\n'
        f'[mesh.telemetry]\nmetrics = "127.0.0.1:9464"\n{P}'
    )
    sockets = {
        "mesh": f"ListenStream={short_dir}/run/mesh.sock\nDirectoryMode=0700",
        "gateway": "ListenStream=127.0.0.1:7443",
        "metrics": "ListenStream=127.0.0.1:9464",
    }
    systemd.add_unit("held.service", mesh_service(short_dir, "Type=notify"))
    for name, lines in sockets.items():
        head = "[Unit]\nDefaultDependencies=no\n[Socket]\nService=held.service"
        systemd.add_unit(f"held-{name}.socket", f"{head}\nFileDescriptorName={name}\n{lines}\n")
    units = [f"held-{name}.socket" for name in sockets]
    systemd.systemctl("start", *units)
    assert systemd.get("held.service", "ActiveState") == "inactive"
    # The first client has it started, and is answered.
    assert ask(short_dir / "run" / "mesh.sock") == 4
    systemd.wait_for("held.service", ActiveState="active")
    for _ in range(5):
        with systemd.start("systemctl", "restart", "held.service") as restart:
            while restart.poll() is None:
                assert ask(short_dir / "run" / "mesh.sock") == 4
        assert restart.returncode == 0
        assert "mesh" in systemd.run(*GET_METRICS).stdout
    systemd.systemctl("stop", *units, "held.service")
    assert systemd.get("held.service", "Result") == "success"


@pytest.fixture
def page_files() -> dict[str, str]:
    """The files of the how-to, by name."""
    page = ROOT / "docs" / "how-to" / "systemd.md"
    return {each.attributes: each.text for each in parse_blocks(page) if each.attributes}


def test_the_units_of_the_how_to(
    systemd: Systemd, example: Path, page_files: dict[str, str]
) -> None:
    (example / "mesh.toml").write_text(page_files["mesh.toml"])
    units = ["mesh-gateway.socket", "mesh-metrics.socket", "mesh.service"]
    for name in units:
        systemd.add_unit(name, page_files[name])
    systemd.systemctl("start", *units)
    assert systemd.get("mesh.service", "StatusText") == "1 of 1 plugin ready"
    assert "mesh" in systemd.run(*GET_METRICS).stdout
    assert systemd.run("stat", "--format=%a", "/run/meshtrio").stdout == "700\n"
    call = ("call", "plugin.echo", "echo.v1.EchoService/Echo", '{"message": "hi"}')
    program, where = "/opt/example/venv/bin/meshtrio", "MESH_SOCKET=/run/meshtrio/mesh.sock"
    assert "hi" in systemd.run("env", where, program, *call).stdout
    systemd.systemctl("reload", "mesh.service")
    systemd.systemctl("restart", "mesh.service")
    assert "hi" in systemd.run("env", where, program, *call).stdout
    systemd.systemctl("stop", "mesh.service")
    assert systemd.get("mesh.service", "Result") == "success"

    # With the mesh socket, too; `meshtrio` is a user that every machine has here.
    for name in ("mesh.socket", "mesh.service.d/fixed-user.conf"):
        systemd.add_unit(name, re.sub("User=meshtrio", "User=daemon", page_files[name]))
    systemd.systemctl("start", "mesh.socket")
    assert "hi" in systemd.run("env", where, program, *call).stdout
    systemd.systemctl("restart", "mesh.service")
    assert "hi" in systemd.run("env", where, program, *call).stdout
    systemd.systemctl("stop", "mesh.service")
    assert systemd.run("stat", "--format=%U", "/run/meshtrio/mesh.sock").stdout == "daemon\n"
    assert "hi" in systemd.run("env", where, program, *call).stdout
    systemd.systemctl("stop", "mesh.socket", *units)
    assert systemd.get("mesh.service", "Result") == "success"


def ask(path: Path) -> int:
    """Connect, and return the type of the first frame that the server sends."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(path))
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        return client.recv(9)[3]
