"""Stopping: by a signal, in good order, and by SIGKILL, which must leave nothing either."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import purerpc
import pytest
import trio

from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import health
from meshtrio.supervisor import events
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import (
    ROOT,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
    service_table,
    wait_until,
)
from tests.support.process_tracking import warden_pids

Status = health.HealthCheckResponse
MIXED = echo_plugin_table(instances=2) + plugin_table(
    "stubborn", "startup_faults.py", "ignore-sigterm", stop_timeout=0.5
)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_within_the_largest_stop_timeout(
    number: int, short_dir: Path
) -> None:
    with serve_mesh(short_dir, MIXED, min_ready=2) as mesh:
        mesh.wait_for_log("stubborn/0 | ignoring")
        began = time.monotonic()
        assert mesh.stop(number) == 0
        assert time.monotonic() - began < 5.0  # echo's default
        assert mesh.plugin_pids() == []
        assert list(mesh.runtime_dir.glob("*.sock")) == []
        assert "2 processes stopped in time, 1 were killed (stubborn/0)" in mesh.log


def test_killing_the_supervisor_leaves_no_plugin_nor_a_child_of_one(short_dir: Path) -> None:
    config = echo_plugin_table() + plugin_table("parent", "startup_faults.py", "with-child")
    with serve_mesh(short_dir, config, min_ready=1) as mesh:
        mesh.wait_for_log("children started")
        assert len(mesh.plugin_pids()) == 4
        mesh.process.kill()
        mesh.process.wait()
        wait_until(lambda: not mesh.plugin_pids())


def test_a_killed_supervisors_folder_can_be_used_again(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        mesh.process.kill()
        mesh.process.wait()
        assert list(mesh.runtime_dir.glob("*.sock")) != []
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        assert mesh.stop() == 0


def test_a_killed_warden_is_replaced_and_its_successor_knows_the_plugins(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        for killed in warden_pids(mesh.process.pid):
            os.kill(killed, signal.SIGKILL)
        mesh.wait_for_log("restarting it")
        wait_until(lambda: warden_pids(mesh.process.pid) not in ([], [killed]))
        mesh.process.kill()
        mesh.process.wait()
        wait_until(lambda: not mesh.plugin_pids())


def test_the_warden_goes_with_its_mesh(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        found = warden_pids(mesh.process.pid)
        assert len(found) == 1
        assert mesh.stop() == 0
        assert not Path(f"/proc/{found[0]}").exists()


def test_running_calls_finish_within_the_grace(short_dir: Path) -> None:
    with serve_mesh(short_dir, plugin_table("chain", "echo_chain.py"), min_ready=1) as mesh:
        method = "echo.v1.EchoService/Slow"
        arguments = ["call", "plugin.chain", method, '{"message": "late", "seconds": 1}']
        call = subprocess.Popen(
            [sys.executable, "-m", "meshtrio", *arguments],
            env=mesh.environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        mesh.wait_for_log("slow begins")
        assert mesh.stop() == 0
        output, _ = call.communicate(timeout=60)
        assert '"late"' in output
        assert "slow ends" in mesh.log


@pytest.mark.parametrize("name", ["", "meshtrio.v1.Control", "external"])
async def test_watchers_of_health_get_not_serving_when_the_mesh_begins_to_stop(
    name: str, short_dir: Path
) -> None:
    """Its sockets are served for as long as plugins drain, here until `stop_timeout`."""
    external = service_table("external", endpoints=[f"unix:{short_dir}/run/mesh.sock"])
    stubborn = plugin_table("stubborn", "startup_faults.py", "ignore-sigterm", stop_timeout=60)
    request = health.HealthCheckRequest(service=name)
    with trio.fail_after(120):
        async with run_mesh(stubborn + external, short_dir) as observed:
            await observed.wait_for_line("ignoring")
            async with connect_to_mesh(observed.mesh.socket) as channel:
                stub = DynamicStub(channel, health.DESCRIPTOR.services_by_name["Health"])
                async with stub.Watch(request) as watch:
                    assert (await watch.receive_message()).status == Status.SERVING
                    observed.stop()
                    with trio.CancelScope(shield=True), trio.fail_after(30):
                        assert (await watch.receive_message()).status == Status.NOT_SERVING
                        with pytest.raises(purerpc.UnavailableError, match="is shutting down"):
                            await watch.receive_message()
                        assert (await stub.Check(request)).status == Status.NOT_SERVING
                    [process] = observed.find_events(events.Starting, plugin="stubborn")
                    os.kill(process.event.pid, signal.SIGKILL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_embedding_example_stops_clean(number: int, short_dir: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "examples" / "embedded.py"), str(short_dir / "run")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process:
        assert "hello from the same program" in process.stdout.readline()
        process.send_signal(number)
        assert process.wait(20) == 0


def test_who_presses_ctrl_c_again_learns_what_is_waited_for(short_dir: Path) -> None:
    stubborn = plugin_table("stubborn", "startup_faults.py", "ignore-sigterm", stop_timeout=2)
    with serve_mesh(short_dir, stubborn, min_ready=0) as mesh:
        mesh.wait_for_log("stubborn/0 | ignoring")
        for said in ("SIGINT: stopping", "SIGINT: still stopping; plugins have their stop_timeout"):
            mesh.process.send_signal(signal.SIGINT)
            mesh.wait_for_log(said)
        mesh.process.send_signal(signal.SIGINT)
        assert mesh.process.wait(20) == 0
        assert "1 were killed (stubborn/0)" in mesh.log
