"""The dashboard of a mesh in a process of its own: options, commands, restarts, upgrades."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path

from tests.support.dashboards import EventStream, dashboard_table, find_dashboard, serve_dashboard
from tests.support.mesh_processes import (
    MINIMAL_COMMAND,
    plugin_table,
    run_meshtrio,
    serve_mesh,
    wait_until,
)
from tests.support.ports import find_free_port
from tests.support.service_managers import listen_tcp, serve_mesh_with_sockets
from tests.support.upgrades import connecting_all_the_time, upgrade

P = plugin_table("p", *MINIMAL_COMMAND)
WRITER_CODE = """
import time
while True:
    print("x" * 4000, flush=True)
    time.sleep(0.002)
"""
WRITER = plugin_table("w", "-c", WRITER_CODE, ready="started")


def test_the_command_and_the_log_have_the_url(short_dir: Path) -> None:
    with serve_dashboard(short_dir, dashboard_table() + P, min_ready=1) as dashboard:
        mesh = dashboard.mesh
        assert mesh.run_command("dashboard").stdout == f"{dashboard.url}\n"
        assert f"dashboard at {dashboard.url}" in mesh.log
        assert dashboard.get_json("execution", dashboard.log_in())["number"] == 1
        assert mesh.stop() == 0
        done = mesh.run_command("dashboard")
        assert (done.returncode, done.stdout) == (1, "")
        assert "no mesh answers" in done.stderr


def test_a_mesh_without_a_dashboard(short_dir: Path) -> None:
    (short_dir / "run").mkdir()
    with serve_mesh(short_dir, P, min_ready=1) as mesh:
        # As a mesh leaves it that was killed.
        done = mesh.run_command("dashboard", "--json")
        assert (done.returncode, done.stdout) == (2, "")
        assert "this mesh has no dashboard; set listen in [mesh.dashboard]" in done.stderr


def test_the_url_of_a_killed_mesh_is_not_that_of_the_next(short_dir: Path) -> None:
    with serve_dashboard(short_dir, dashboard_table() + P, min_ready=1) as dashboard:
        dashboard.mesh.process.kill()
        dashboard.mesh.process.wait()
    assert (short_dir / "run" / "dashboard.url").exists()
    with serve_mesh(short_dir, P, min_ready=1) as mesh:
        assert "has no dashboard" in mesh.run_command("dashboard").stderr


def test_an_option_of_serve(short_dir: Path) -> None:
    config = short_dir / "mesh.toml"
    config.write_text("[mesh.dashboard]\ncontrol = true\n" + P)
    port, metrics = find_free_port(), find_free_port()
    command = [sys.executable, "-m", "meshtrio", "serve", str(config), "--runtime-dir", "run"]
    command += ["--dashboard", f"127.0.0.1:{port}", "--metrics", f"127.0.0.1:{metrics}"]
    env = {**os.environ, "MESH_SOCKET": str(short_dir / "run" / "mesh.sock")}
    with subprocess.Popen(command, cwd=short_dir, stderr=subprocess.PIPE) as process:
        try:
            wait_until(lambda: run_meshtrio("ps", env=env).returncode == 0)
            done = run_meshtrio("dashboard", "--json", env=env)
            assert json.loads(done.stdout)["url"].startswith(f"http://127.0.0.1:{port}/?token=")
            # The file is read again, and the options still apply.
            done = run_meshtrio("reload", env=env)
            assert done.returncode == 0, done.stderr
            assert urllib.request.urlopen(f"http://127.0.0.1:{metrics}/metrics").status == 200
            config.write_text("[mesh.dashboard]\ncontrol = false\n" + P)
            done = run_meshtrio("reload", env=env)
            assert done.returncode == 1
            assert "dashboard cannot be changed while the mesh runs" in done.stderr
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def test_wrong_addresses(short_dir: Path) -> None:
    (short_dir / "mesh.toml").write_text(P)
    for address, problem in (
        ("9465", "--dashboard: must be host:port"),
        ("localhost:0", "--dashboard: must have a port other than 0"),
        ("0.0.0.0:9465", "dashboard: listen: other hosts reach 0.0.0.0:9465, which requires tls"),
    ):
        done = run_meshtrio("serve", "mesh.toml", "--dashboard", address, cwd=short_dir)
        assert done.returncode == 2
        assert problem in done.stderr
    with socket.create_server(("127.0.0.1", find_free_port())) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        options = ("--dashboard", address, "--runtime-dir", "run")
        done = run_meshtrio("serve", "mesh.toml", *options, cwd=short_dir)
        assert done.returncode == 2
        assert f"[mesh.dashboard] listen: tcp:{address}: cannot be bound" in done.stderr
        assert not (short_dir / "run" / "dashboard.url").exists()


def test_meshes_without_it_import_nothing_of_it() -> None:
    program = "import meshtrio.cli.serve, sys; print([m for m in sys.modules if 'dashboard' in m"
    program += " or 'h11' in m or m == 'meshtrio.transport.http_server'])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.strip() == b"['meshtrio.config.dashboard']"


def test_an_upgrade_keeps_the_port_the_token_and_the_session(short_dir: Path) -> None:
    config = dashboard_table(control=True) + P
    with serve_dashboard(short_dir, config, min_ready=1) as dashboard:
        cookie, mesh = dashboard.log_in(), dashboard.mesh
        with connecting_all_the_time(("127.0.0.1", dashboard.port)) as errors:
            for number in (2, 3):
                with closing(EventStream(dashboard, cookie, "statistics=1")) as stream:
                    before = stream.wait_for("mesh")
                    stream.wait_for("statistics")
                    upgrade(mesh)
                with closing(EventStream(dashboard, cookie, "statistics=1")) as stream:
                    after = stream.wait_for("mesh")
                assert (before["execution"], after["execution"]) == (number - 1, number)
                assert abs(before["started"] - after["started"]) < 1
                assert find_dashboard(mesh).url == dashboard.url
        assert errors == []
        mode = (short_dir / "run" / "dashboard.url").stat().st_mode
        assert mode & 0o777 == 0o600
        assert mesh.stop() == 0
        assert "mesh: error" not in mesh.log


def test_an_upgrade_may_change_it(short_dir: Path) -> None:
    with serve_mesh(short_dir, P, min_ready=1) as mesh:
        port = find_free_port()
        (short_dir / "mesh.toml").write_text(dashboard_table(port=port) + P)
        upgrade(mesh)
        assert find_dashboard(mesh).port == port
        with socket.create_server(("127.0.0.1", find_free_port())) as taken:
            other = dashboard_table(port=taken.getsockname()[1])
            (short_dir / "mesh.toml").write_text(other + P)
            done = mesh.run_command("upgrade")
            assert "[mesh.dashboard] listen" in done.stderr
        (short_dir / "mesh.toml").write_text(P)
        upgrade(mesh)
        assert "has no dashboard" in mesh.run_command("dashboard").stderr


def test_a_socket_of_systemd(short_dir: Path) -> None:
    with listen_tcp()[0] as listener:
        port = listener.getsockname()[1]
        config = dashboard_table(port=port) + P
        for _ in range(2):
            with ThreadPoolExecutor() as pool:
                early = pool.submit(_get_status, port)
                sockets = {"dashboard": listener}
                with serve_mesh_with_sockets(short_dir, config, sockets, min_ready=1) as mesh:
                    assert early.result() == 401
                    upgrade(mesh)
                    assert _get_status(port) == 401
                    assert mesh.stop() == 0
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)


def _get_status(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
        client.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        return int(client.recv(12).split()[1])


def test_viewers_who_do_not_read_hold_up_nothing(short_dir: Path) -> None:
    """A plugin writes much, and viewers of all of it sleep."""
    with serve_dashboard(short_dir, dashboard_table() + P + WRITER, min_ready=2) as dashboard:
        cookie, mesh = dashboard.log_in(), dashboard.mesh
        with ExitStack() as stack:
            query = "logs=*&log_last=1000&events=100&statistics=1&tap=*"
            sleeping = [
                stack.enter_context(closing(EventStream(dashboard, cookie, query)))
                for _ in range(20)
            ]
            awake = stack.enter_context(closing(EventStream(dashboard, cookie, query)))
            awake.wait_for("statistics")
            before = _resident(mesh.process.pid)
            for _ in range(3):
                awake.wait_for("statistics")
            assert mesh.run_command("restart", "p").returncode == 0
            while awake.wait_for("event")["kind"] != "stopped":
                pass
            assert _resident(mesh.process.pid) < before + 100 * 2**20
            for stream in sleeping:
                stream.wait_for("log")
        wait_until(lambda: dashboard.count_connections() == 0)
        assert mesh.stop() == 0


def _resident(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
