"""Processes under callgrind, and the number of instructions that they execute.

A process starts without instrumentation, which is faster. Its counters are reset and read from
outside, through vgdb, while it waits: the instructions in between are those of what it did.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.benchmarks.supervision.fleet import cpu_nanoseconds

_TIMEOUT = 300.0
"""Seconds for a process to print a line."""
_IDLE_TIME = 0.05
"""Seconds without CPU time after which a process counts as idle."""


def require_valgrind() -> str:
    """Return the version of valgrind. Raises SystemExit if it is not installed."""
    if shutil.which("valgrind") is None or shutil.which("vgdb") is None:
        raise SystemExit("valgrind is not installed: `apt-get install valgrind` brings it")
    done = subprocess.run(["valgrind", "--version"], capture_output=True, text=True, check=True)
    return done.stdout.strip().removeprefix("valgrind-")


def command_under_callgrind(folder: Path, *arguments: str) -> list[str]:
    """Return the command that runs a Python program under callgrind."""
    return [
        "valgrind",
        "--tool=callgrind",
        "--quiet",
        "--instr-atstart=no",
        f"--callgrind-out-file={folder}/counts.%p",
        f"--vgdb-prefix={folder}/vgdb",
        sys.executable,
        *arguments,
    ]


@attrs.frozen
class Counter:
    """The instruction counter of a process under callgrind."""

    pid: int
    folder: Path

    def start(self) -> subprocess.Popen[bytes]:
        """Start counting from 0."""
        return self._command("-c", "instrumentation on", "-c", "zero")

    def dump(self) -> subprocess.Popen[bytes]:
        """Write the count to a file, for `read`, and start from 0 again."""
        return self._command("-c", "dump")

    def read(self) -> int:
        """Return the number of instructions in the last file that was written."""
        dumps = self.folder.glob(f"counts.{self.pid}.*")
        last = max(dumps, key=lambda path: int(path.suffix[1:]))
        found = re.search(r"^summary: (\d+)", last.read_text(), re.MULTILINE)
        assert found is not None, f"no summary in {last}"
        return int(found[1])

    def _command(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = ["vgdb", f"--pid={self.pid}", f"--vgdb-prefix={self.folder}/vgdb", *arguments]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def start_counters(counters: Sequence[Counter]) -> None:
    """Start counting once the processes are idle."""
    _run(counters, Counter.start)


def read_counters(counters: Sequence[Counter]) -> list[int]:
    """Return the numbers of instructions once the processes are idle, and start from 0 again."""
    _run(counters, Counter.dump)
    return [counter.read() for counter in counters]


def _run(
    counters: Sequence[Counter], start_command: Callable[[Counter], subprocess.Popen[bytes]]
) -> None:
    for counter in counters:
        _wait_until_idle(counter.pid)
    for process in [start_command(counter) for counter in counters]:
        if process.wait(_TIMEOUT):
            raise SystemExit(f"{process.args} failed with exit status {process.returncode}")


def _wait_until_idle(pid: int) -> None:
    """Wait until a process has slept for a while.

    One that uses no CPU time may still have work to do, on a machine with more to do.
    """
    used = -1
    while used != (used := cpu_nanoseconds(pid)) or not _sleeps(pid):
        time.sleep(_IDLE_TIME)


def _sleeps(pid: int) -> bool:
    """Whether all threads of a process sleep."""
    stats = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(stat.rpartition(") ")[2].startswith("S") for stat in stats)


class Program:
    """A process of the benchmark that reads and writes lines."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process = process
        self._log = log
        self.pid = process.pid

    def write_line(self, line: str = "") -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")

    def read_line(self) -> str:
        """Return the next line. Raises SystemExit if there is none."""
        assert self._process.stdout is not None
        readable, _, _ = select.select([self._process.stdout], [], [], _TIMEOUT)
        line = self._process.stdout.readline().decode() if readable else ""
        if not line:
            raise SystemExit(f"{self._process.args} failed:\n{self._log.read_text()[-4000:]}")
        return line.strip()


@contextmanager
def run_program(command: list[str], log: Path, environment: Mapping[str, str]) -> Iterator[Program]:
    """Run a process for the block, then kill it and what it has started."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            command,
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        yield Program(process, log)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
