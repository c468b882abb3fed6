"""A plugin that cannot be started says why, in its state, in the log and in `check`."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from meshtrio.config import Containment, MeshConfig, PluginConfig, RestartPolicy
from meshtrio.supervisor import events
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import plugin_table, run_meshtrio
from tests.support.process_tracking import require_namespaces

LAUNCHED = Containment(nice=1)
"""Anything that needs the launcher, which executes the program then."""


async def reason_of(folder: Path, command: list[str], **settings: Any) -> str:
    """Return why the only plugin of a mesh gave up."""
    config = PluginConfig("p", command, restart=RestartPolicy.NEVER, **settings)
    async with run_mesh(MeshConfig([config]), folder) as watched:
        gave_up = (await watched.wait_for_event(events.GaveUp)).event
        assert isinstance(gave_up, events.GaveUp)
        return str(gave_up.exit)


def script(folder: Path, content: bytes, mode: int = 0o755) -> str:
    path = folder / "program"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


@pytest.mark.parametrize("containment", [Containment(), LAUNCHED])
@pytest.mark.parametrize(
    ("content", "mode", "words"),
    [
        (b"#!/no/such/python\n", 0o755, "'/no/such/python', which the #! line of"),
        (b"#!/bin/sh\r\n", 0o755, "ends with CR LF"),
        (b"#!/usr/bin/env python3\r\n", 0o755, "ends with CR LF"),
        (b"#!/usr/bin/env no-such-python\n", 0o755, "'no-such-python', which the #! line of"),
        (b"print()\n", 0o755, "does not begin with #!"),
        (b"#!/bin/sh\n", 0o644, "has no execute permission: chmod +x it"),
    ],
)
async def test_a_program_that_is_not_executed_says_why(
    containment: Containment, content: bytes, mode: int, words: str, short_dir: Path
) -> None:
    reason = await reason_of(short_dir, [script(short_dir, content, mode)], containment=containment)
    assert words in reason
    assert str(short_dir) in reason


async def test_a_program_that_ends_so_by_itself_is_not_blamed(short_dir: Path) -> None:
    reason = await reason_of(short_dir, ["sh", "-c", "exit 127"])
    assert reason == "exited with status 127"


async def test_a_removed_cwd_says_so(short_dir: Path) -> None:
    cwd = short_dir / "work"
    cwd.mkdir()
    config = PluginConfig("p", ["sh", "-c", "exit 1"], cwd=cwd, max_restarts=1)
    async with run_mesh(MeshConfig([config]), short_dir) as watched:
        await watched.wait_for_event(events.Exited)
        cwd.rmdir()
        gave_up = (await watched.wait_for_event(events.GaveUp)).event
        assert f"its cwd '{cwd}' is not there: make it" in str(gave_up.exit)  # type: ignore[attr-defined]


async def test_too_long_arguments_are_named_with_their_sizes(short_dir: Path) -> None:
    reason = await reason_of(short_dir, ["sh", "-c", "x" * 200_000])
    assert "Argument list too long" in reason
    assert "argument 2 has 200,001; the limit is 131,072 for one" in reason
    reason = await reason_of(short_dir, ["sh"], env={"BIG": "y" * 200_000})
    assert "variable BIG has 200,005" in reason


async def test_a_program_that_is_being_written_says_so(short_dir: Path) -> None:
    program = short_dir / "program"
    shutil.copy("/bin/true", program)
    with program.open("r+b"):
        reason = await reason_of(short_dir, [str(program)])
    assert "Text file busy" in reason
    assert "to replace a program, rename the new file over it" in reason


def test_check_names_them_too(short_dir: Path) -> None:
    program = script(short_dir, b"#!/bin/sh\r\n")
    (short_dir / "mesh.toml").write_text(
        f'[[plugin]]\nname = "a"\ncommand = ["{program}"]\n'
        '[[plugin]]\nname = "b"\ncommand = ["/tmp"]\n'
    )
    done = run_meshtrio("check", str(short_dir / "mesh.toml"))
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert "plugin 'a': command:" in first
    assert "ends with CR LF" in first
    assert "plugin 'b': command: '/tmp' is a folder, not a program" in second


TELLING = "import os; print([os.environ.get(n) for n in ('HOME', 'USER', 'LOGNAME')], flush=True)"


@pytest.mark.parametrize(
    ("env", "expected"),
    [({}, ["{home}", "nobody", "nobody"]), ({"HOME": "/srv"}, ["/srv", "nobody", "nobody"])],
)
async def test_a_user_comes_with_its_home_and_name(
    env: dict[str, str], expected: list[str], short_dir: Path
) -> None:
    system = Path("/usr/bin/python3")
    if os.geteuid() != 0 or not system.exists():
        pytest.skip("only root may run plugins as somebody else, by the system's Python")
    short_dir.chmod(0o755)
    config = PluginConfig(
        "who",
        [str(system), "-c", TELLING],
        cwd=Path("/"),
        env=env,
        containment=Containment(user="nobody"),
    )
    home = pwd.getpwnam("nobody").pw_dir
    async with run_mesh(MeshConfig([config]), short_dir) as watched:
        await watched.wait_for_line(str([text.format(home=home) for text in expected]))


async def test_what_a_python_plugin_prints_is_in_the_log_at_once(short_dir: Path) -> None:
    """And not when its buffer is full, or never, where it is killed before."""
    program = "import time; print('printed'); time.sleep(3600)"
    config = plugin_table("p", "-c", program, ready_timeout=3600)
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_line("printed")


async def test_what_it_prints_is_not_lost_when_it_is_killed(short_dir: Path) -> None:
    program = "import os; print('the last that it printed'); os.kill(os.getpid(), 9)"
    async with run_mesh(plugin_table("p", "-c", program, restart="never"), short_dir) as watched:
        await watched.wait_for_line("the last that it printed")
        await watched.wait_for_event(events.GaveUp)


@pytest.mark.parametrize("value", ["", "2"])
async def test_buffering_is_as_the_config_or_the_mesh_says(
    value: str, short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = "import os; print(ascii(os.environ['PYTHONUNBUFFERED']), flush=True)"
    async with run_mesh(
        plugin_table("p", "-c", program, env={"PYTHONUNBUFFERED": value}), short_dir
    ) as watched:
        await watched.wait_for_line(repr(value))
    monkeypatch.setenv("PYTHONUNBUFFERED", value)
    async with run_mesh(plugin_table("p", "-c", program), short_dir) as watched:
        await watched.wait_for_line(repr(value))


async def test_what_a_service_manager_told_the_mesh_is_not_for_plugins(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "LISTEN_FDS", "LISTEN_PID"]
    for name in names:
        monkeypatch.setenv(name, "1")
    program = f"import os; print([n for n in {names} if n in os.environ], flush=True)"
    async with run_mesh(plugin_table("p", "-c", program), short_dir) as watched:
        await watched.wait_for_line("[]")
    wanted = plugin_table("p", "-c", program, inherit_env=["NOTIFY_SOCKET"])
    async with run_mesh(wanted, short_dir) as watched:
        await watched.wait_for_line("['NOTIFY_SOCKET']")


@pytest.fixture
def ignored_signals() -> Iterator[list[int]]:
    """Ignore signals, as for a mesh in the background of a shell or under nohup(1)."""
    numbers = [signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR2]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    yield numbers
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("containment", [Containment(), LAUNCHED])
async def test_plugins_begin_with_default_dispositions_of_signals(
    containment: Containment, short_dir: Path, ignored_signals: list[int]
) -> None:
    command = ["sh", "-c", "grep -E 'Sig(Ign|Blk)' /proc/self/status | tr '\\n\\t' '  '; echo ."]
    config = PluginConfig("p", command, restart=RestartPolicy.NEVER, containment=containment)
    async with run_mesh(MeshConfig([config]), short_dir) as watched:
        await watched.wait_for_line("SigBlk: 0000000000000000 SigIgn: 0000000000000000 .")
        # Which the mesh itself goes on without noticing.
        for number in ignored_signals:
            signal.raise_signal(number)
        await trio.lowlevel.checkpoint()
    assert all(signal.getsignal(number) is signal.SIG_IGN for number in ignored_signals)


def test_a_full_disk_says_so_and_keeps_no_lock(short_dir: Path) -> None:
    require_namespaces()
    folder = short_dir / "small"
    folder.mkdir()
    (short_dir / "mesh.toml").write_text(plugin_table("p", "-c", "exit()"))
    serve = f"{sys.executable} -m meshtrio serve {short_dir}/mesh.toml --runtime-dir {folder}/run"
    fill = f"mkdir {folder}/run && cat /dev/zero > {folder}/zeros"
    commands = f"mount -t tmpfs -o size=64k none {folder}; {fill} 2>/dev/null; {serve}"
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", commands],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "mesh.lock cannot be written: No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_kernel_without_pidfds_is_named(short_dir: Path) -> None:
    (short_dir / "sitecustomize.py").write_text(
        "import errno, os\n"
        "def pidfd_open(pid, flags=0):\n"
        "    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))\n"
        "os.pidfd_open = pidfd_open\n"
    )
    (short_dir / "mesh.toml").write_text(plugin_table("p", "minimal.py"))
    path = os.pathsep.join(filter(None, [str(short_dir), os.environ.get("PYTHONPATH")]))
    done = run_meshtrio(
        *("serve", str(short_dir / "mesh.toml"), "--runtime-dir", str(short_dir / "run")),
        env={**os.environ, "PYTHONPATH": path},
    )
    assert done.returncode == 2
    assert "a mesh needs pidfd_open(2)" in done.stderr
    assert "Traceback" not in done.stderr
