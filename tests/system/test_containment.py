"""What real plugins may use, and as whom they run."""

from __future__ import annotations

import hashlib
import os
import pwd
import signal
from pathlib import Path
from typing import Any

import pytest

from meshtrio import contract
from meshtrio.config import PluginConfig
from meshtrio.supervisor import events
from meshtrio.util.errors import ConfigError
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import PLUGINS_DIRECTORY, echo_plugin_table, plugin_table

MIB = 1024 * 1024


async def report_process_state(short_dir: Path, **settings: Any) -> dict[str, Any]:
    """Return what a plugin with these settings reports of its process."""
    config = plugin_table("telling", "report_process_state.py", ready_timeout=60.0, **settings)
    async with run_mesh(config, short_dir) as watched:
        line = (await watched.wait_for_line('"nofile"')).event
        assert isinstance(line, events.LineWritten)
        assert line.fields is not None
        return dict(line.fields)


async def test_without_settings_it_is_the_mesh_that_is_inherited_from(short_dir: Path) -> None:
    found = await report_process_state(short_dir)
    assert found["nice"] == os.nice(0)
    assert found["ids"] == [os.getuid(), os.getgid(), os.getgroups()]
    assert set(found["env"]) >= set(os.environ)
    assert found["leads"]


async def test_limits_are_in_force_when_it_begins(short_dir: Path) -> None:
    rlimits = {"nofile": 123, "address_space": 2048 * MIB, "cpu": 50, "core": 0}
    found = await report_process_state(
        short_dir, containment={"rlimits": rlimits, "nice": 7, "umask": 0o077}
    )
    assert found["nofile"] == [123, 123]
    assert found["address_space"] == [2048 * MIB] * 2
    assert found["cpu"] == [50, 51]
    assert found["core"] == [0, 0]
    assert (found["nice"], found["umask"]) == (7, 0o077)
    assert found["leads"]
    assert found["cwd"] == str(PLUGINS_DIRECTORY)


async def test_it_inherits_only_the_variables_that_are_listed(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("LISTED", "x")
    found = await report_process_state(short_dir, inherit_env=["LISTED", "PATH"], env={"OWN": "x"})
    own = {name for name in found["env"] if not name.startswith(("PLUGIN_", "MESH_", "LC_"))}
    assert own == {"LISTED", "PATH", "OWN", "PYTHONUNBUFFERED"}


async def test_what_its_mesh_was_told_by_another_is_not_for_it(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in contract.MESH_VARIABLES:
        monkeypatch.setenv(name, "of the mesh itself")
    found = await report_process_state(short_dir)
    given = contract.MESH_VARIABLES & set(found["env"])
    assert given == {
        *("PLUGIN_SOCKET", "PLUGIN_NAME", "PLUGIN_INSTANCE", "PLUGIN_STOP_TIMEOUT"),
        *("MESH_SOCKET", "MESH_LAUNCH_ID", "MESH_ID", "MESH_PIDFD"),
    }


@pytest.mark.skipif(os.getuid() != 0, reason="only root may run plugins as somebody else")
async def test_it_can_run_as_somebody_else(short_dir: Path) -> None:
    # The system's Python, since nobody may not read this user's.
    system = Path("/usr/bin/python3")
    if not system.exists():
        pytest.skip(f"{system} is not there")
    program = (
        "import os, socket, time; s = socket.socket(socket.AF_UNIX);"
        "s.bind(os.environ['PLUGIN_SOCKET']); s.listen();"
        "print('ids', os.getuid(), os.getgid(), os.getgroups(), flush=True); time.sleep(60)"
    )
    config = f'''[[plugin]]
name = "who"
command = ["{system}", "-c", "{program}"]
cwd = "/"
containment = {{ user = "nobody", group = "0" }}
'''
    short_dir.chmod(0o755)
    async with run_mesh(config, short_dir) as watched:
        line = (await watched.wait_for_line("ids")).event
        assert isinstance(line, events.LineWritten)
        nobody = pwd.getpwnam("nobody").pw_uid
        assert line.line == f"ids {nobody} 0 [0]"
        bound = watched.mesh.instances()[0].socket
        assert bound.stat().st_uid == nobody
        assert bound.parent.stat().st_mode & 0o777 == 0o700
        assert bound.parent.parent.stat().st_mode & 0o777 == 0o711
    assert not bound.parent.exists()


async def test_a_user_who_is_not_there_is_told(short_dir: Path) -> None:
    config = plugin_table(
        "p", "report_process_state.py", restart="never", containment={"user": "no-such-user"}
    )
    with pytest.raises(ConfigError, match="there is no user 'no-such-user'"):
        async with run_mesh(config, short_dir):
            pass


def write_script(short_dir: Path) -> tuple[Path, str]:
    program = short_dir / "program"
    program.write_text("#!/bin/sh\necho it runs; sleep 3600\n")
    program.chmod(0o755)
    return program, hashlib.sha256(program.read_bytes()).hexdigest()


async def test_the_executable_must_be_the_one_that_was_promised(short_dir: Path) -> None:
    program, digest = write_script(short_dir)
    table = f'[[plugin]]\nname = "p"\ncommand = ["{program}"]\nready_timeout = 60\n'
    table += f'backoff = {{ initial = 0.01 }}\ncontainment = {{ sha256 = "{digest}" }}\n'
    async with run_mesh(table, short_dir) as watched:
        await watched.wait_for_line("it runs")
        pid = watched.mesh.instances()[0].pid
        assert pid is not None
        program.write_text("#!/bin/sh\necho something else\n")
        os.kill(pid, signal.SIGKILL)
        await watched.wait_for_event(events.Restarting, count=3)
        reason = watched.mesh.instances()[0].reason
        assert f"{program} has SHA-256" in reason
        assert f"not {digest}" in reason
        assert not [o for o in watched.find_events(events.LineWritten) if "else" in str(o.event)]


@pytest.mark.parametrize("start", ["exec", "fork"])
async def test_the_script_must_be_the_one_that_was_promised(short_dir: Path, start: str) -> None:
    script = short_dir / "script.py"
    script.write_text("import time; print('it runs', flush=True); time.sleep(3600)")
    containment = {"script_sha256": hashlib.sha256(script.read_bytes()).hexdigest()}
    settings = {"ready_timeout": 60.0, "backoff": {"initial": 0.01}, "start": start}
    config = plugin_table("p", "script.py", cwd=short_dir, containment=containment, **settings)
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_line("it runs")
        pid = watched.mesh.instances()[0].pid
        assert pid is not None
        script.write_text("print('something else')")
        os.kill(pid, signal.SIGKILL)
        await watched.wait_for_event(events.Restarting, count=2)
        assert f"{script} has SHA-256" in watched.mesh.instances()[0].reason
        assert len(watched.find_events(events.LineWritten)) == 1


async def test_too_much_memory_is_the_end_of_the_group(short_dir: Path) -> None:
    config = echo_plugin_table() + plugin_table(
        "hungry", "memory_hog.py", "200", restart="never", containment={"memory": 150 * MIB}
    )
    async with run_mesh(config, short_dir) as watched:
        ended = (await watched.wait_for_event(events.GaveUp, plugin="hungry")).event
        assert isinstance(ended, events.GaveUp)
        assert "bytes of memory, and may use 157,286,400" in ended.exit.reason
        assert ended.exit.signal == signal.SIGKILL
        assert watched.find_events(events.Ready, plugin="echo")


async def test_one_that_grows_is_renewed(short_dir: Path) -> None:
    config = plugin_table("hungry", "memory_hog.py", "100", renew_above=80 * MIB)
    async with run_mesh(config, short_dir) as watched:
        renewing = (await watched.wait_for_event(events.Renewing)).event
        assert isinstance(renewing, events.Renewing)
        assert "bytes of memory" in renewing.reason
        await watched.wait_for_event(events.Stopped)
        assert watched.find_events(events.Exited) == []


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"containment": {"sha256": "abc"}}, "64 hexadecimal digits"),
        ({"containment": {"umask": 0o1000}}, "between 0o000 and 0o777"),
        ({"containment": {"nice": 20}}, "between -20 and 19"),
        ({"containment": {"rlimits": {"nofile": -1}}}, "nofile"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], reason: str, short_dir: Path) -> None:
    from meshtrio.config import load
    from meshtrio.util.errors import ConfigError

    (short_dir / "mesh.toml").write_text(plugin_table("p", "report_process_state.py", **settings))
    with pytest.raises(ConfigError, match=reason) as caught:
        load(short_dir / "mesh.toml")
    assert len(caught.value.problems) == 1


def test_a_config_without_containment_is_executed_directly() -> None:
    assert not PluginConfig(name="p", command=["true"]).containment.needs_launcher
