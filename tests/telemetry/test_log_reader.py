"""The reader of binary logs, as a command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from meshtrio.messages import binarylog


def read(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "meshtrio.telemetry.binary_log.reader", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_reader_tells_what_it_cannot_read(tmp_path: Path) -> None:
    entry = binarylog.GrpcLogEntry(call_id=7).SerializeToString()
    whole, none = tmp_path / "whole", tmp_path / "none"
    whole.write_bytes(len(entry).to_bytes(4, "big") + entry + b"\0\0")
    none.write_bytes(b"\x7fELF" + bytes(100))
    done = read(str(whole), str(none), str(tmp_path), str(tmp_path / "gone"))
    assert done.returncode == 1
    assert json.loads(done.stdout)["callId"] == "7"
    assert done.stderr.splitlines() == [
        f"{none}: is not a binary log, or is corrupt after the entries printed",
        f"{tmp_path}: cannot be read: Is a directory",
        f"{tmp_path / 'gone'}: cannot be read: No such file or directory",
    ]
    assert (read().returncode, read("--help").returncode) == (2, 0)


def test_an_entry_of_no_time(tmp_path: Path) -> None:
    entry = binarylog.GrpcLogEntry(timestamp={"seconds": 2**60}).SerializeToString()
    (tmp_path / "log").write_bytes(len(entry).to_bytes(4, "big") + entry)
    done = read(str(tmp_path / "log"))
    assert done.returncode == 1
    assert (
        done.stderr
        == f"{tmp_path / 'log'}: is not a binary log, or is corrupt after the entries printed\n"
    )


def test_whoever_reads_the_reader_may_go_away(tmp_path: Path) -> None:
    entry = binarylog.GrpcLogEntry(call_id=7).SerializeToString()
    (tmp_path / "log").write_bytes((len(entry).to_bytes(4, "big") + entry) * 50_000)
    module = f"{sys.executable} -m meshtrio.telemetry.binary_log.reader"
    command = f"{module} {tmp_path / 'log'} | head -1"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["callId"] == "7"
    assert done.stderr == ""
