"""Starts of programs: descriptors held during a start, and working directories."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from meshtrio.supervisor.process.spawn.program import kill_and_reap, start_program
from tests import ROOT
from tests.support.hung_filesystem import mount_hung_filesystem


@pytest.mark.parametrize("where", ["program", "program in cwd", "cwd", "root"])
async def test_a_start_that_hangs_holds_no_descriptors_of_this_process(
    where: str, short_dir: Path
) -> None:
    """A child that holds a copy of another start's pipe would block that start, too."""
    read, write = os.pipe()
    # The filesystem is unmounted first, which ends the start.
    async with trio.open_nursery() as nursery:
        with mount_hung_filesystem(short_dir) as filesystem:
            program, cwd = {
                "program": (str(filesystem.folder / "program"), None),
                "program in cwd": ("hung/program", short_dir),
                "cwd": ("/bin/true", filesystem.folder / "cwd"),
                "root": ("/bin/true", filesystem.folder),
            }[where]

            async def start() -> None:
                with contextlib.suppress(OSError):
                    await start_program([program], cwd=cwd)

            nursery.start_soon(start)
            await trio.to_thread.run_sync(filesystem.wait_for_request, abandon_on_cancel=True)
            os.close(write)
            with trio.fail_after(30):
                end = await trio.to_thread.run_sync(os.read, read, 1, abandon_on_cancel=True)
            assert end == b""
    os.close(read)


async def test_a_program_is_found_in_its_working_directory(tmp_path: Path) -> None:
    program = tmp_path / "folder" / "program"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\npwd\n")
    program.chmod(0o755)
    started = await start_program(["folder/program"], cwd=tmp_path, stdout=subprocess.PIPE)
    try:
        assert started.stdout is not None
        assert await trio.to_thread.run_sync(started.stdout.readline) == f"{tmp_path}\n".encode()
    finally:
        await kill_and_reap(started)


@pytest.mark.parametrize(
    ("cwd", "expected"), [("missing", FileNotFoundError), ("file", NotADirectoryError)]
)
async def test_a_working_directory_that_is_none(
    cwd: str, expected: type[OSError], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(expected) as raised:
        await start_program(["/bin/true"], cwd=tmp_path / cwd)
    assert raised.value.filename == str(tmp_path / cwd)


STARTING = """
import os, subprocess, sys, trio
from pathlib import Path
from meshtrio.supervisor.process.spawn.program import kill_and_reap, start_program

async def main():
    if "without streams" in sys.argv:
        os.closerange(0, 3)
    command = ["/bin/sh", "-c", "pwd > cwd"]
    streams = dict.fromkeys(["stdin", "stdout", "stderr"], subprocess.DEVNULL)
    started = await start_program(command, cwd=Path(sys.argv[1]), **streams)
    os.waitid(os.P_PID, started.pid, os.WEXITED | os.WNOWAIT)
    await kill_and_reap(started)

trio.run(main)
"""


def test_a_process_without_standard_streams_gives_a_working_directory(tmp_path: Path) -> None:
    command = [sys.executable, "-c", STARTING, str(tmp_path), "without streams"]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    assert (tmp_path / "cwd").read_text() == f"{tmp_path}\n"


def test_a_process_without_proc_gives_a_working_directory(tmp_path: Path) -> None:
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("only root, and with unshare(1), can unmount /proc")
    unmounted = ["unshare", "--mount", "sh", "-c", 'umount -l /proc && exec "$@"', "sh"]
    command = [*unmounted, sys.executable, "-c", STARTING, str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=60)
    assert (tmp_path / "cwd").read_text() == f"{tmp_path}\n"


WITHOUT_DESCRIPTORS = """
import resource, signal
from meshtrio.supervisor.process.spawn.signal_dispositions import (
    default_signals_in_children, needs_signal_reset
)
resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
found = [needs_signal_reset()]
signal.signal(signal.SIGHUP, signal.SIG_IGN)
found.append(needs_signal_reset())
with default_signals_in_children():
    found.append(needs_signal_reset())
print(found, signal.getsignal(signal.SIGHUP) is signal.SIG_IGN)
"""


def test_ignored_signals_are_known_without_descriptors() -> None:
    command = [sys.executable, "-c", WITHOUT_DESCRIPTORS]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=60)
    assert done.stdout == b"[False, True, False] True\n"
