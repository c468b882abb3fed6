"""A plugin that was forked finds itself in the process that it would have been executed in."""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
import zipapp
from pathlib import Path
from typing import Any

import pytest

from meshtrio.config import Containment, MeshConfig, PluginConfig, StartMethod
from meshtrio.supervisor import events
from meshtrio.supervisor.process.cleanup.process_marker import read_rss_limit
from tests import ROOT
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import PLUGINS_DIRECTORY, plugin_table
from tests.support.process_tracking import template_pids

SNAPSHOT = "process_snapshot.py"
OF_ONE_RUN = ("MESH_LAUNCH_ID", "MESH_ID", "MESH_PIDFD", "PLUGIN_SOCKET", "PLUGIN_NAME")
LIMITS = {"nofile": 123, "address_space": 4 << 30, "cpu": 50, "core": 0}


async def take_snapshot(watched: RecordedMesh, plugin: str) -> dict[str, Any]:
    await watched.wait_for_event(events.LineWritten, plugin=plugin, line="written")
    (status,) = [each for each in watched.mesh.instances() if each.name == plugin]
    assert status.start is StartMethod(plugin)
    found: dict[str, Any] = json.loads(Path(f"{status.socket}.json").read_text())
    return found


def check_own(found: dict[str, Any]) -> None:
    """Check and remove what differs from process to process."""
    environ, shown = found["environ"], found["environ in /proc"]
    assert shown.items() <= environ.items()
    soft, hard = found["limits"].pop("RLIMIT_RSS")
    assert soft >> 62 == 1
    assert hard == -1
    assert found["descriptors"].pop(environ["MESH_PIDFD"]) == "anon_inode"
    for name in OF_ONE_RUN:
        del environ[name], shown[name]


@pytest.mark.parametrize(
    ("command", "settings"),
    [
        ([SNAPSHOT], {}),
        ([SNAPSHOT, "an argument", "-m", "ünïcode"], {"env": {"OWN": "välue"}}),
        (["-m", "process_snapshot", "x"], {"preload": ["decimal"]}),
        (["-X", "utf8", "-B", str(PLUGINS_DIRECTORY / SNAPSHOT)], {"cwd": "/"}),
        (["-P", SNAPSHOT], {"preload": ["json"]}),
        (["-c", (PLUGINS_DIRECTORY / SNAPSHOT).read_text(), "-x", "--y"], {}),
        ([SNAPSHOT], {"containment": {"rlimits": LIMITS, "nice": 7, "umask": 0o077}}),
        ([SNAPSHOT], {"inherit_env": ["PATH", "PYTHONPATH"]}),
    ],
)
async def test_it_is_as_after_exec(
    short_dir: Path, command: list[str], settings: dict[str, Any]
) -> None:
    settings = {"cwd": PLUGINS_DIRECTORY, "ready_timeout": 60.0, **settings}
    preload = {"preload": settings.pop("preload", [])}
    config = plugin_table("exec", *command, **settings, start="exec")
    config += plugin_table("fork", *command, **settings, start="fork", **preload)
    async with run_mesh(config, short_dir) as watched:
        executed = await take_snapshot(watched, "exec")
        forked = await take_snapshot(watched, "fork")
        pids = [*template_pids(os.getpid()), *(each.pid for each in watched.mesh.instances())]
        assert len({read_rss_limit(pid) for pid in pids if pid is not None}) == 3
    check_own(executed)
    check_own(forked)
    assert executed["parent"] == os.getpid()
    assert forked == executed


@pytest.mark.parametrize("form", ["folder", "zip", "zip with another name"])
async def test_programs_of_several_files_are_as_after_exec(short_dir: Path, form: str) -> None:
    folder, archive = short_dir / "folder", short_dir / ("a.pyz" if form == "zip" else "program")
    folder.mkdir()
    (folder / "__main__.py").write_text((PLUGINS_DIRECTORY / SNAPSHOT).read_text())
    zipapp.create_archive(folder, archive, interpreter="/usr/bin/env python3")
    command = ["folder" if form == "folder" else archive.name, "an argument"]
    settings = {"cwd": short_dir, "ready_timeout": 60.0}
    config = plugin_table("exec", *command, **settings, start="exec")
    config += plugin_table("fork", *command, **settings, start="fork")
    async with run_mesh(config, short_dir) as watched:
        executed = await take_snapshot(watched, "exec")
        forked = await take_snapshot(watched, "fork")
    check_own(executed)
    check_own(forked)
    assert forked == executed


def can_nobody_import_meshtrio(interpreter: str, env: dict[str, str]) -> bool:
    command = [interpreter, "-c", "import meshtrio.plugin_preload"]
    return subprocess.run(command, env=env, user="nobody", check=False, cwd="/").returncode == 0


@pytest.mark.skipif(os.getuid() != 0, reason="only root may run plugins as another user")
async def test_it_runs_as_another_user(short_dir: Path) -> None:
    search_path = os.pathsep.join([str(ROOT), *sys.path])
    # The system's Python, since this user's may be in a folder that others cannot enter.
    system, env = "/usr/bin/python3", {"PYTHONPATH": search_path}
    if not can_nobody_import_meshtrio(system, env):
        pytest.skip("nobody can import meshtrio here")
    command = [system, str(PLUGINS_DIRECTORY / SNAPSHOT)]
    containment = Containment(user="nobody", group="0", nice=-3, umask=0o022)
    plugins = [
        PluginConfig(
            *(method.value, command),
            start=method,
            env=env,
            cwd="/",
            containment=containment,
            ready_timeout=60.0,
        )
        for method in (StartMethod.EXEC, StartMethod.FORK)
    ]
    short_dir.chmod(0o755)
    async with run_mesh(MeshConfig(plugins), short_dir) as watched:
        executed = await take_snapshot(watched, "exec")
        forked = await take_snapshot(watched, "fork")
        (template,) = template_pids(os.getpid())
        assert os.stat(f"/proc/{template}").st_uid == pwd.getpwnam("nobody").pw_uid
    check_own(executed)
    check_own(forked)
    assert forked == executed


@pytest.mark.parametrize("how", ["0", "3", "signal", "raise", "interrupt", "text", "syntax"])
async def test_its_end_is_reported_as_after_exec(short_dir: Path, how: str) -> None:
    (short_dir / "syntax.py").write_text("def f(:\n")
    script = "syntax.py" if how == "syntax" else str(PLUGINS_DIRECTORY / "exit_as_told.py")
    settings: dict[str, Any] = {"cwd": short_dir, "restart": "never", "ready_timeout": 60.0}
    config = plugin_table("exec", script, how, start="exec", **settings)
    config += plugin_table("fork", script, how, start="fork", **settings)
    async with run_mesh(config, short_dir) as watched:
        ended = []
        for plugin in ("exec", "fork"):
            event = (await watched.wait_for_event(events.Exited, plugin=plugin)).event
            assert isinstance(event, events.Exited)
            ended.append(event.exit)
    assert ended[0] == ended[1]
    assert ended[0].signal == (signal.SIGUSR1 if how == "signal" else ended[0].signal)
