"""Programs that serve no gRPC as plugins: supervised like others, and without a service."""

from __future__ import annotations

from pathlib import Path

import purerpc
import pytest

from meshtrio import mesh
from meshtrio.config import load
from meshtrio.supervisor import events
from meshtrio.supervisor.policy.state import InstanceState
from tests.support.cli_commands import run_command_ok, run_failing_command, run_json_command
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import echo_plugin_table, serve_mesh, to_toml


def program_table(name: str, *command: str, **settings: object) -> str:
    """Return a [[plugin]] table of a program that is not Python."""
    values = {"name": name, "command": command, **settings}
    return "\n".join(["[[plugin]]", *(f"{k} = {to_toml(v)}" for k, v in values.items()), ""])


WORKER = program_table("worker", "sleep", "1000", ready="started")


async def test_a_started_worker_is_ready_and_its_dependents_start(short_dir: Path) -> None:
    config = WORKER + program_table("next", "sleep", "1000", ready="started", depends_on=["worker"])
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready, plugin="next")
        for status in watched.mesh.instances():
            assert (status.state, status.socket) == (InstanceState.READY, None)
        with pytest.raises(purerpc.NotFoundError, match="plugin worker has no service"):
            async with watched.mesh.connect("plugin.worker"):
                pass
        with pytest.raises(purerpc.NotFoundError, match="plugin worker has no service"):
            async with mesh.connect("plugin.worker", mesh_socket=watched.mesh.socket):
                pass
        await watched.mesh.restart("worker")
        await watched.mesh.stop("worker")
        await watched.mesh.start("worker")
        assert not watched.find_events(events.Exited)
    assert watched.mesh.shutdown_report.stopped[0] == "next/0"


def test_the_commands_show_a_plugin_without_a_service(short_dir: Path) -> None:
    config = WORKER + echo_plugin_table()
    with serve_mesh(short_dir, config, min_ready=2) as served:
        worker, echo = served.ps()
        assert (worker["state"], worker["socket"]) == ("ready", "")
        assert echo["socket"]
        assert [each["service"] for each in run_json_command(served, "services")] == ["plugin.echo"]
        assert "no service" in run_failing_command(served, "call", "plugin.worker", "a.B/C", "{}")
        assert "it has no service" in run_command_ok(served, "log-level", "worker")
        for command in (["tree"], ["ps"], ["top", "--once"]):
            assert "worker" in run_command_ok(served, *command)


async def test_a_reload_gives_and_takes_a_service(short_dir: Path) -> None:
    config = short_dir / "mesh.toml"
    async with run_mesh(echo_plugin_table(), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        config.write_text(echo_plugin_table(ready="started", service=False))
        loaded = load(config, runtime_dir=short_dir / "run")
        assert (await watched.mesh.reload(loaded)).restarted == ("echo",)
        with pytest.raises(purerpc.NotFoundError, match="plugin echo has no service"):
            async with watched.mesh.connect("plugin.echo"):
                pass
        config.write_text(echo_plugin_table())
        await watched.mesh.reload(load(config, runtime_dir=short_dir / "run"))
        async with watched.mesh.connect("plugin.echo"):
            pass
