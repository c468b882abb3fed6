"""Parsing /proc: an entry with any content, or an unreadable one, does not affect others."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from meshtrio.supervisor.process.cleanup import process_marker
from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.proc.resource_usage import read_usage_by_group
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from tests import ROOT
from tests.support.process_tracking import require_namespaces

AFTER_NAME = (
    b"S 1 77 70 0 -1 4194560 10 20 0 0 3 4 5 6 20 0 1 0 1000 8192 100 18446744073709551615 1"
)
EXPECTED = procfs.ProcessStat(
    pid=4711,
    state="S",
    ppid=1,
    pgrp=77,
    session=70,
    cpu_ticks=18,
    rss_pages=100,
    num_threads=1,
    start_ticks=1000,
)

NAMES = [
    b"cat",
    b"a b",
    b"a) R 1 2 (b",
    b")",
    b"((((",
    b"x\ny",
    b"\t\r\x0b",
    b"caf\xc3",
    b"\xd0\xbf\xd1\x80\xd0\xbe\xd0\xb2\xd0\xb5\xd1\x80\xd0\xba\xd0",
    b"\xff\xfe\x80",
    b"",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_process_may_have_any_name(name: bytes) -> None:
    assert procfs.parse_stat(b"4711 (" + name + b") " + AFTER_NAME + b"\n") == EXPECTED


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"4711",
        b"4711 (cat)",
        b"4711 (cat) S",
        b"4711 (cat) " + b" ".join(AFTER_NAME.split()[:21]),
        b"4711 (cat) " + AFTER_NAME.replace(b" 77 ", b" x ", 1),
        b"4711 (cat) " + AFTER_NAME.replace(b" 100 ", b" \xff ", 1),
        b"4711 (cat) " + AFTER_NAME.replace(b"S", b"\xe9", 1),
        b"4711 (cat) " + AFTER_NAME.replace(b"S", b"SS", 1),
        AFTER_NAME,
        b"\0" * 100,
    ],
)
def test_a_malformed_entry_is_none(content: bytes) -> None:
    assert procfs.parse_stat(content) is None


@pytest.mark.parametrize(("state", "alive"), [("R", True), ("D", True), ("Z", False), ("X", False)])
def test_a_zombie_is_not_alive(state: str, alive: bool) -> None:
    assert attrs.evolve(EXPECTED, state=state).is_alive is alive


@contextmanager
def named(name: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process with this name, and arguments like it, in a group of its own."""
    program = (
        "import ctypes, sys; "
        f"ctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0); "
        "print(flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, b"--caf\xc3"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={b"CAF\xc3": b"\xff"},
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


@pytest.mark.parametrize("name", [b"caf\xc3", b"a) R 1 2 (b", b"x\ny\xff"])
async def test_real_processes_with_such_names_are_seen_beside_others(name: bytes) -> None:
    with named(name) as process:
        assert Path(f"/proc/{process.pid}/comm").read_bytes() == name + b"\n"
        found = await read_usage_by_group()
        assert found[process.pid].rss > 0
        assert found[os.getpgrp()].rss > 0
        child = await PluginProcess.spawn(
            [sys.executable, "-c", "input()"], env=os.environ, cwd=None
        )
        await child.stop(10)
        assert child.returncode is not None
        os.close(child.stdout)
        os.close(child.stderr)


def test_marked_processes_are_found_by_bytes() -> None:
    with named(b"caf\xc3") as process:
        mark = process_marker.ProcessMarker(os.fsdecode(b"CAF\xc3=\xff"), [os.getuid()])
        assert process_marker.kill_marked_processes(mark).killed == {process.pid}
        assert process.wait(10) == -9


def test_a_process_out_of_our_reach_is_left_and_stopping_goes_on() -> None:
    """A process that executes a set-user-ID program may not be signalled by its parent."""
    program = """
import os, sys, trio
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess

async def main():
    child = await PluginProcess.spawn(["sleep", "3600"], env=os.environ, cwd=None)
    os.setresuid(12345, 12345, 0)
    try:
        await child.dump_stacks()
        assert await child.stop(0.1)
        assert not child.has_exited
    finally:
        os.setresuid(0, 0, 0)
    await child.stop(0)
    assert child.returncode in (-9, -15)

trio.run(main)
"""
    if os.geteuid() != 0:
        pytest.skip("only root can become somebody else")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        timeout=60,
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("hidepid", [1, 2])
def test_processes_that_are_hidden_are_left_out(hidepid: int) -> None:
    """With hidepid /proc shows users their own processes only (proc(5))."""
    require_namespaces()
    look = (
        "import os, trio; "
        "from meshtrio.supervisor.process.cleanup import process_marker as m; "
        "from meshtrio.supervisor.process.proc import procfs, resource_usage; "
        "os.setgroups([]); os.setresgid(*[12345] * 3); os.setresuid(*[12345] * 3); "
        "print([stat.pid for stat in procfs.iter_stats()] == [os.getpid()], "
        "trio.run(resource_usage.read_usage_by_group)[os.getpgrp()].rss > 0, "
        "m.kill_marked_processes(m.ProcessMarker('NO_SUCH=1', [12345])).killed)"
    )
    commands = f'mount -t proc -o hidepid={hidepid} proc /proc && {sys.executable} -c "{look}"; :'
    done = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount", "setsid", "--wait", "sh", "-c", commands],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "True True set()\n", done.stderr
