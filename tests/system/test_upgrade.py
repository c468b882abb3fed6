"""A mesh executes its new code in its own process, and keeps its plugins."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from random import Random
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import SlowRequest

from meshtrio import mesh as meshes
from meshtrio.client.channel import connect_to
from meshtrio.util.processes import ProcessInfo
from tests import ROOT
from tests.support.etcd_server import run_etcd
from tests.support.mesh_processes import (
    ECHO_PLUGIN_DIRECTORY,
    MINIMAL_COMMAND,
    MeshProcess,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
    wait_until,
)
from tests.support.nodes import TTL, node_tables, watch_keys
from tests.support.ports import find_free_port
from tests.support.process_tracking import template_pids, warden_pids
from tests.support.scrapes import Scrape, http_get
from tests.support.upgrades import (
    connecting_all_the_time,
    count_descriptors,
    identify,
    upgrade,
)
from tests.upgrades.kills import run_round

CLIENT_PROCESSES, CLIENTS_OF_EACH = 5, 10
UPGRADES = 10


@pytest.mark.parametrize("start", ["exec", "fork"])
def test_ten_upgrades_lose_no_call_and_no_stream(short_dir: Path, start: str) -> None:
    table = echo_plugin_table(instances=3, start=start)
    with serve_mesh(short_dir, table, min_ready=3) as mesh:
        before = identify(mesh)
        others = warden_pids(mesh.process.pid), template_pids(mesh.process.pid)
        descriptors = wait_for_descriptors(mesh)
        clients = [start_clients(mesh) for _ in range(CLIENT_PROCESSES)]
        with connecting_all_the_time(mesh.socket) as refused:
            for _ in range(UPGRADES):
                upgrade(mesh)
        assert not refused
        results = [json.loads(client.communicate(timeout=60)[0]) for client in clients]
        assert wait_for_descriptors(mesh) == descriptors
        assert identify(mesh) == before
        assert (warden_pids(mesh.process.pid), template_pids(mesh.process.pid)) == others
        assert len(others[0]) == 1
        assert len(others[1]) == (start == "fork")
        assert [result["errors"] for result in results] == [[]] * CLIENT_PROCESSES
        assert all(result["streams"] == CLIENTS_OF_EACH for result in results)
        assert min(result["unary"] for result in results) > 100
        assert {pid for result in results for pid in result["pids"]} == {row[2] for row in before}
        assert mesh.stop() == 0
    assert "were killed" in mesh.log
    assert "3 processes stopped in time, 0 were killed" in mesh.log


def wait_for_descriptors(mesh: MeshProcess) -> dict[str, int]:
    """Count the descriptors of the mesh once no client is connected."""
    path = f" {mesh.socket}\n"
    wait_until(lambda: Path("/proc/net/unix").read_text().count(path) == 1)
    return count_descriptors(mesh.process.pid)


def start_clients(mesh: MeshProcess) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.calling_clients", str(CLIENTS_OF_EACH)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**mesh.environment, "PYTHONPATH": f"{ROOT}:{ECHO_PLUGIN_DIRECTORY}"},
        text=True,
    )


COUNTER = """
import itertools, sys, time
for n in itertools.count():
    sys.stdout.write(f"line {n} be"); sys.stdout.flush()
    time.sleep(0.003)
    print(f"gun {n}", flush=True)
"""


def test_no_line_of_output_is_lost(short_dir: Path) -> None:
    quiet = {"liveness": {"interval": 0}, "ready_timeout": 600.0}
    with serve_mesh(short_dir, plugin_table("count", "-c", COUNTER, **quiet)) as mesh:
        mesh.wait_for_log("line 10 begun")
        for _ in range(3):
            upgrade(mesh)
        last = max(map(int, re.findall(r"begun (\d+)", mesh.log)))
        mesh.wait_for_log(f"line {last + 20} begun {last + 20}")
    lines = re.findall(r"\| (line .*)", mesh.log)[:-1]
    assert lines == [f"line {n} begun {n}" for n in range(len(lines))]


EXITS = """
import sys, time, os, pathlib
folder = pathlib.Path(sys.argv[1])
(folder / "running").write_text(str(os.getpid()))
while not (folder / "go").exists():
    time.sleep(0.001)
sys.exit(7)
"""


def test_an_exit_during_the_upgrade_is_noticed(short_dir: Path) -> None:
    """The mesh is stopped as soon as it executes, and the plugin exits then."""
    table = plugin_table("exits", "-c", EXITS, str(short_dir), ready_timeout=600.0, restart="never")
    with serve_mesh(short_dir, table) as mesh:
        wait_until((short_dir / "running").exists)
        mesh.process.send_signal(signal.SIGUSR2)
        mesh.wait_for_log("upgrade: executing")
        os.kill(mesh.process.pid, signal.SIGSTOP)
        (short_dir / "go").touch()
        pid = int((short_dir / "running").read_text())
        wait_until(lambda: not ProcessInfo(pid).is_alive)
        os.kill(mesh.process.pid, signal.SIGCONT)
        mesh.wait_for_log("exited with status 7")
        mesh.wait_for_log("the mesh was upgraded")
        (row,) = mesh.ps()
        assert (row["state"], row["pid"]) == ("failed", None)
        assert "exited with status 7" in row["reason"]


def test_histories_are_kept(short_dir: Path) -> None:
    crash = plugin_table("crash", "-c", "raise SystemExit('no luck')", backoff={"initial": 0.05})
    down = plugin_table("down", "-c", "raise SystemExit(3)", restart="never")
    stopped = echo_plugin_table("stopped")
    with serve_mesh(short_dir, crash + down + stopped, min_ready=1) as mesh:
        assert mesh.run_command("stop", "stopped").returncode == 0
        wait_until(lambda: rows(mesh)["crash"]["restarts"] >= 2)
        before = rows(mesh)
        events = mesh.run_command("events").stdout.splitlines()
        upgrade(mesh)
        after = rows(mesh)
        assert after["crash"]["restarts"] >= before["crash"]["restarts"]
        assert after["down"] == before["down"]
        assert after["stopped"] == before["stopped"]
        assert mesh.run_command("events").stdout.splitlines()[: len(events)] == events
        assert "no luck" in mesh.run_command("logs", "crash").stdout
        assert mesh.run_command("start", "stopped").returncode == 0


def rows(mesh: MeshProcess) -> dict[str, dict[str, Any]]:
    found = {row["name"]: row for row in mesh.ps()}
    for row in found.values():
        row.pop("uptime", None)
    return found


def test_the_config_is_read_again(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        before = identify(mesh)
        more = echo_plugin_table() + echo_plugin_table("more")
        (short_dir / "mesh.toml").write_text(more)
        upgrade(mesh)
        wait_until(lambda: rows(mesh).get("more", {}).get("state") == "ready")
        assert identify(mesh)[:1] == before
        (short_dir / "mesh.toml").write_text(echo_plugin_table())
        upgrade(mesh)
        wait_until(lambda: "more" not in rows(mesh))
        assert identify(mesh) == before


def test_what_cannot_take_over_is_refused(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        before = identify(mesh)
        config = short_dir / "mesh.toml"
        for wrong, reason in [
            ("[mesh]\nbogus = 1\n", "bogus: is not a key"),
            (f'[mesh]\ncgroup = "{short_dir}"\n', "cgroup cannot be changed by an upgrade"),
            ("not TOML", "is not TOML"),
        ]:
            config.write_text(wrong + echo_plugin_table())
            refused = mesh.run_command("upgrade")
            assert refused.returncode == 1
            assert reason in refused.stderr
            assert "the new program cannot take over" in refused.stderr
            assert refused.stderr.count("\n") == 1
        config.write_text(echo_plugin_table())
        assert identify(mesh) == before
        assert "the mesh was upgraded" not in mesh.log
        upgrade(mesh)
        assert identify(mesh) == before


def test_broken_code_is_refused(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module that the mesh imports is broken once it has started."""
    modules = short_dir / "modules"
    modules.mkdir()
    monkeypatch.setenv("PYTHONPATH", f"{modules}:{ROOT}")
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        before = identify(mesh)
        (modules / "attrs.py").write_text("raise RuntimeError('half installed')\n")
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        refused = mesh.run_command("upgrade")
        assert refused.returncode == 1
        assert "half installed" in refused.stderr
        assert identify(mesh) == before
        (modules / "attrs.py").unlink()
        upgrade(mesh)
        assert identify(mesh) == before


async def test_a_config_that_breaks_in_between_is_replaced_by_the_one_before(
    short_dir: Path,
) -> None:
    """A call through the mesh holds the upgrade up, after the new program was checked."""
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        before = identify(mesh)
        async with connect_to(f"unix:{mesh.socket}") as channel, trio.open_nursery() as nursery:
            nursery.start_soon(call_slowly, channel)
            await trio.sleep(0.2)  # the outcome is the same, but the upgrade may be too fast
            errors = await trio.to_thread.run_sync(
                fail_in_between, mesh, lambda: (short_dir / "mesh.toml").write_text("broken")
            )
        assert "is not TOML" in errors
        assert await trio.to_thread.run_sync(identify, mesh) == before
        assert "the mesh goes on with the config from before" in mesh.log


async def call_slowly(channel: Any) -> None:
    target, request = [("x-mesh-target", "plugin.echo")], SlowRequest(message="slow", seconds=60)
    with pytest.raises(purerpc.UnavailableError):  # It takes longer than `drain_timeout`.
        await EchoServiceStub(channel).Slow(request, metadata=target)


def fail_in_between(mesh: MeshProcess, make_it_fail: Callable[[], object]) -> str:
    """Have an upgrade fail after the new program was checked; return what the command prints."""
    with subprocess.Popen(
        [sys.executable, "-m", "meshtrio", "upgrade"],
        env=mesh.environment,
        stderr=subprocess.PIPE,
        text=True,
    ) as command:
        mesh.wait_for_log("upgrade: draining connections")
        make_it_fail()
        _, errors = command.communicate(timeout=60)
    assert command.returncode == 1
    assert "the upgrade has failed" in errors
    return errors


async def test_if_the_program_cannot_be_executed_the_old_one_goes_on(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = short_dir / "python"
    python.symlink_to(sys.executable)
    with ExitStack() as stack:
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", str(python))
            patch.setenv("PYTHONPATH", ":".join([str(ROOT), *filter(None, sys.path)]))
            table = echo_plugin_table()
            mesh = stack.enter_context(serve_mesh(short_dir, table, min_ready=1))
        before = identify(mesh)
        address = f"unix:{short_dir}/run/echo-0.sock"
        async with (
            meshes.register("other", address, mesh_socket=mesh.socket),
            connect_to(f"unix:{mesh.socket}") as channel,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(call_slowly, channel)
            await trio.sleep(0.2)  # as above
            errors = await trio.to_thread.run_sync(fail_in_between, mesh, python.unlink)
            assert "No such file" in errors
            assert "the mesh goes on as before" in mesh.log
            assert await trio.to_thread.run_sync(identify, mesh) == before
            assert await trio.to_thread.run_sync(list_endpoints, mesh, "other")
            python.symlink_to(sys.executable)
            await trio.to_thread.run_sync(upgrade, mesh)
            assert await trio.to_thread.run_sync(identify, mesh) == before
        assert mesh.stop() == 0


def test_a_stop_signal_at_any_instant_of_an_upgrade_stops_the_mesh(short_dir: Path) -> None:
    random = Random(7)
    table = plugin_table("quick", *MINIMAL_COMMAND, instances=2)
    for number in range(4):
        folder = short_dir / str(number)
        folder.mkdir()
        with serve_mesh(folder, table, min_ready=2) as mesh:
            mesh.process.send_signal(signal.SIGUSR2)
            mesh.wait_for_log("upgrade: executing")
            time.sleep(random.uniform(0, 1.0))  # any instant will do
            assert mesh.stop() == 0
            assert "2 processes stopped in time, 0 were killed" in mesh.log
            assert not mesh.plugin_pids()


def test_an_embedded_mesh_cannot_be_upgraded(short_dir: Path) -> None:
    program = "import sys, trio; from meshtrio import mesh; trio.run(mesh.main, sys.argv[1])"
    config = f'[mesh]\nruntime_dir = "{short_dir}/run"\n' + echo_plugin_table()
    (short_dir / "mesh.toml").write_text(config)
    with subprocess.Popen([sys.executable, "-c", program, short_dir / "mesh.toml"]) as embedded:
        try:
            path = short_dir / "run" / "mesh.sock"
            wait_until(path.exists)
            refused = subprocess.run(
                [sys.executable, "-m", "meshtrio", "upgrade", "--mesh-socket", path],
                capture_output=True,
                text=True,
                check=False,
            )
            assert refused.returncode == 1
            assert "embedded in another program" in refused.stderr
        finally:
            embedded.send_signal(signal.SIGINT)


async def test_registered_endpoints_stay(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        address = f"unix:{short_dir}/run/echo-0.sock"
        async with meshes.register("other", address, mesh_socket=mesh.socket):
            before = await trio.to_thread.run_sync(list_endpoints, mesh, "other")
            assert len(before) == 1
            for _ in range(2):
                await trio.to_thread.run_sync(upgrade, mesh)
                assert await trio.to_thread.run_sync(list_endpoints, mesh, "other") == before
            await trio.sleep(6)  # longer than an endpoint stays that is not registered again
            assert await trio.to_thread.run_sync(list_endpoints, mesh, "other") == before
        await trio.to_thread.run_sync(lambda: wait_until(lambda: not list_endpoints(mesh, "other")))


def list_endpoints(mesh: MeshProcess, service: str) -> list[Any]:
    done = mesh.run_command("services", "--json")
    found = json.loads(done.stdout)
    return [
        endpoint["id"]
        for each in found
        if each["service"] == service
        for endpoint in each["endpoints"]
    ]


@pytest.mark.parametrize(
    "victims", [("mesh",), ("warden",), ("mesh", "warden"), ("template", "plugin")], ids=" ".join
)
def test_a_kill_at_any_instant_leaves_one_mesh_or_nothing(
    short_dir: Path, victims: tuple[str, ...]
) -> None:
    """A share of `python -m tests.upgrades`."""
    run_round(short_dir, victims, Random(" ".join(victims)))


def test_tcp_ports_stay_open_and_follow_the_config(short_dir: Path) -> None:
    ports = [find_free_port() for _ in range(3)]

    def tables(gateway: int, metrics: int) -> str:
        return (
            f'[mesh.gateway]\nlisten = "tcp://127.0.0.1:{gateway}"\nsecurity = "plaintext"\n'
            f'[mesh.telemetry]\nmetrics = "127.0.0.1:{metrics}"\n{echo_plugin_table()}'
        )

    with serve_mesh(short_dir, tables(*ports[:2]), min_ready=1) as mesh:
        before = identify(mesh)
        with (
            connecting_all_the_time(("127.0.0.1", ports[0])) as refused,
            connecting_all_the_time(("127.0.0.1", ports[1])) as refused_by_metrics,
        ):
            for _ in range(2):
                upgrade(mesh)
        assert not [*refused, *refused_by_metrics]
        _, text = http_get(f"http://127.0.0.1:{ports[1]}/metrics")
        assert Scrape.parse(text.decode()).value("mesh_plugin_starts_total", plugin="echo") == 1
        with socket.create_server(("127.0.0.1", ports[2])):
            (short_dir / "mesh.toml").write_text(tables(ports[2], ports[1]))
            assert "cannot be bound" in mesh.run_command("upgrade").stderr
        upgrade(mesh)
        socket.create_connection(("127.0.0.1", ports[2])).close()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", ports[0]))
        assert identify(mesh) == before


def test_a_process_that_is_starting_is_kept(short_dir: Path) -> None:
    program = (
        "import os, sys, time, runpy\n"
        f"while not os.path.exists('{short_dir}/go'): time.sleep(0.01)\n"
        "sys.path.insert(0, os.getcwd())\n"
        "runpy.run_path('echo_plugin.py', run_name='__main__')\n"
    )
    table = plugin_table("slow", "-c", program, cwd=ECHO_PLUGIN_DIRECTORY, ready_timeout=600.0)
    with serve_mesh(short_dir, table) as mesh:
        mesh.wait_for_log("started as pid")
        (before,) = mesh.ps()
        upgrade(mesh)
        (short_dir / "go").touch()
        mesh.wait_for_log("ready after")
        (after,) = mesh.ps()
        assert (before["state"], after["state"]) == ("starting", "ready")
        assert before["pid"] == after["pid"]


def test_an_upgrade_waits_for_an_operation(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(instances=2), min_ready=2) as mesh:
        command = [sys.executable, "-m", "meshtrio", "restart", "echo"]
        with subprocess.Popen(command, env=mesh.environment) as restart:
            mesh.wait_for_log("starting a replacement")
            upgrade(mesh)
            assert restart.wait(60) == 0
        assert mesh.log.count("starting a replacement") == 2
        assert [row["state"] for row in mesh.ps()] == ["ready", "ready"]


def test_the_new_code_is_executed(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy of the package gets another version while the mesh runs."""
    package = short_dir / "site" / "meshtrio"
    shutil.copytree(ROOT / "meshtrio", package, ignore=shutil.ignore_patterns("__pycache__"))
    version = package / "util" / "_version.py"
    version.write_text('VERSION = "1.0.0"\n')
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    # From another folder, since the current one comes first in the path of modules.
    away, table = ("env", "-C", str(short_dir)), echo_plugin_table(start="fork")
    with serve_mesh(short_dir, table, min_ready=1, prefix=away) as mesh:
        before = identify(mesh)
        version.write_text('VERSION = "1.0.1+longer"\n')
        done = mesh.run_command("upgrade")
        assert done.stdout == "upgraded from 1.0.0 to 1.0.1+longer; the plugins have kept running\n"
        assert identify(mesh) == before
        assert mesh.run_command("restart", "echo").returncode == 0


async def test_other_nodes_see_no_change(short_dir: Path) -> None:
    with run_etcd() as etcd:
        config = node_tables(etcd, "one") + echo_plugin_table()
        async with watch_keys(etcd) as view:
            with serve_mesh(short_dir, config, min_ready=1) as mesh:
                await view.wait_for_names(".nodes/one", "plugin.echo/one/0")
                before = {key: (x.value, x.lease) for key, x in view.keys.items()}
                deleted: list[str] = []
                for _ in range(2):
                    revision = view.revision
                    await trio.to_thread.run_sync(upgrade, mesh)
                    # Its own key is put again.
                    await view.wait_until(lambda keys, seen=revision: view.revision > seen)
                    deleted += before.keys() - view.keys.keys()
                await trio.sleep(2 * TTL)  # longer than a lease that is not renewed
                assert not deleted
                assert {key: (x.value, x.lease) for key, x in view.keys.items()} == before
