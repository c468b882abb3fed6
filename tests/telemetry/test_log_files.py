"""The files of a binary log: bounded, whole, and no trouble for whoever writes to them."""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from meshtrio.config.binary_log_filter import MethodLogLimits
from meshtrio.telemetry.binary_log import reader, rotating_writer
from meshtrio.telemetry.binary_log.entry_writer import CLIENT, CallEntryWriter
from meshtrio.telemetry.binary_log.rotating_writer import RotatingWriter
from tests.support.mesh_processes import wait_until

RECORD = b"r" * 96
"""With its length a hundred bytes."""


def counts(files: RotatingWriter) -> dict[str, int]:
    written, dropped = files.collect()
    found = {dict(p.labels)["reason"]: p.value for p in dropped.points if p.value}
    return {"written": written.points[0].value, **found}  # type: ignore[dict-item]


def writer_runs() -> bool:
    return "binary log" in {thread.name for thread in threading.enumerate()}


def names(folder: Path) -> list[str]:
    return sorted(path.name.replace(str(os.getpid()), "PID") for path in folder.iterdir())


def records(path: Path) -> int:
    """Return the number of records in a file, all of which have to be whole."""
    data, count = path.read_bytes(), 0
    while data:
        size = int.from_bytes(data[:4], "big")
        assert data[4 : 4 + size] == b"r" * size
        data, count = data[4 + size :], count + 1
    return count


def test_nothing_is_made_before_there_is_something_to_write(tmp_path: Path) -> None:
    files = RotatingWriter(tmp_path / "f", "x")
    files.close()
    assert not (tmp_path / "f").exists()


def test_only_we_can_read_it(tmp_path: Path) -> None:
    files = RotatingWriter(tmp_path / "f", "x")
    files.put(RECORD)
    files.close()
    assert files.path == tmp_path / "f" / f"x.{os.getpid()}.binlog"
    assert (tmp_path / "f").stat().st_mode & 0o777 == 0o700
    assert files.path.stat().st_mode & 0o777 == 0o600
    assert files.path.read_bytes() == b"\0\0\0\x60" + RECORD
    assert counts(files) == {"written": 1}


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_files_are_bounded_in_size_and_number(kept: int, tmp_path: Path) -> None:
    files = RotatingWriter(tmp_path, "x", max_file_size=1050, max_files=kept)
    for _ in range(95):
        files.put(RECORD)
    files.close()
    expected = ["x.PID.binlog", "x.PID.binlog.1", "x.PID.binlog.2"][:kept]
    assert names(tmp_path) == expected
    assert [records(path) for path in sorted(tmp_path.iterdir())] == [5, 10, 10][:kept]
    assert counts(files) == {"written": 95}


def test_what_can_never_be_written_is_dropped_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = RotatingWriter(tmp_path, "x", max_file_size=99)
    files.put(RECORD)
    files.put(b"rr")
    files.close()
    assert counts(files) == {"written": 1, "too_large": 1}
    (said,) = caplog.records
    assert said.getMessage() == f"1 entries of the binary log {files.path} were dropped"


def test_what_processes_left_that_are_gone_is_bounded(tmp_path: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    for number, name in enumerate(["x.{}.binlog.1", "x.{}.binlog", "x.{}.binlog.2", "y.{}.binlog"]):
        path = tmp_path / name.format(done.pid)
        path.touch()
        os.utime(path, (number, number))
    (tmp_path / f"x.{os.getppid()}.binlog").touch()
    os.utime(tmp_path / f"x.{os.getppid()}.binlog", (0, 0))
    files = RotatingWriter(tmp_path, "x")
    files.put(RECORD)
    files.close()
    left = [name.replace(str(done.pid), "GONE") for name in names(tmp_path)]
    kept = ["x.GONE.binlog", "x.GONE.binlog.2", "x.PID.binlog", "y.GONE.binlog"]
    assert sorted(left) == sorted([*kept, f"x.{os.getppid()}.binlog"])


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="only root can unmount /proc"
)
def test_what_running_processes_write_is_left_where_proc_is_missing(tmp_path: Path) -> None:
    running = {f"x.{os.getpid()}.binlog", f"x.{os.getppid()}.binlog", "x.1.binlog"}
    for name in running:
        (tmp_path / name).touch()
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from meshtrio.telemetry.binary_log.rotating_writer import RotatingWriter\n"
        "assert not os.listdir('/proc')\n"
        "files = RotatingWriter(Path(sys.argv[1]), 'x', max_files=1)\n"
        "files.put(b'r')\n"
        "files.close()\n"
        "print(files.path.name)\n"
    )
    unmounted = ["unshare", "--mount", "sh", "-c", 'umount -l /proc && exec "$@"', "sh"]
    command = [*unmounted, sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert {path.name for path in tmp_path.iterdir()} == {*running, done.stdout.strip()}


def test_a_folder_that_cannot_be_written_to_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    files = RotatingWriter(tmp_path / "file" / "f", "x")
    for number in range(3):
        files.put(RECORD)
        wait_until(lambda number=number: counts(files).get("not_written") == number + 1)
    files.close()
    told = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert told == [
        f"the binary log {files.path} cannot be written: Not a directory",
        f"3 entries of the binary log {files.path} were dropped",
    ]


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """No file of this process may be larger, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_of_a_record_that_the_disk_has_no_room_for_nothing_is_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotating_writer, "_RETRY_DELAY", 0.0)
    files = RotatingWriter(tmp_path, "x")
    large = b"r" * 600_000
    with full_at(1_000_000):
        for number in range(3):
            files.put(large)
            wait_until(lambda number=number: sum(counts(files).values()) == number + 1)
        assert counts(files) == {"written": 1, "not_written": 2}
        assert records(files.path) == 1
    files.put(large)
    files.close()
    assert records(files.path) == 2
    said = [r.getMessage() for r in caplog.records]
    assert [line for line in said if "cannot be written" in line] == [
        f"the binary log {files.path} cannot be written: File too large"
    ]


def test_a_file_is_read_up_to_what_is_not_whole_yet(tmp_path: Path) -> None:
    files = RotatingWriter(tmp_path, "x")
    entries = []
    log = CallEntryWriter(entries.append, MethodLogLimits(), CLIENT)
    log.write_client_header("/a.B/C", "host", [("key", "1")], 0.5)
    log.write_half_close()
    for entry in entries:
        files.put(entry)
    files.close()
    data = files.path.read_bytes()
    read = [json.loads(line) for line in printed(files.path)]
    assert [entry["type"] for entry in read] == [
        "EVENT_TYPE_CLIENT_HEADER",
        "EVENT_TYPE_CLIENT_HALF_CLOSE",
    ]
    assert read[0]["clientHeader"]["timeout"] == "0.500s"
    for size in range(1, 4 + len(entries[1])):
        files.path.write_bytes(data[:-size])
        with files.path.open("rb") as file:
            assert len(list(reader.iter_entries(file))) == 1


def printed(path: Path) -> list[str]:
    command = [sys.executable, "-m", "meshtrio.telemetry.binary_log.reader", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def test_a_disk_that_hangs_holds_nobody_up(tmp_path: Path) -> None:
    works_again = threading.Event()

    class OnDiskThatHangs(RotatingWriter):
        def _append(self, data: bytes) -> None:
            works_again.wait()

    files = OnDiskThatHangs(tmp_path, "x")
    for _ in range(100):
        files.put(b"r" * 100_000)
    found = counts(files)
    assert found["queue_full"] > 10
    files.close()
    assert counts(files)["queue_full"] + counts(files)["stopped"] == 100
    # Let the thread go, for the sake of the other tests.
    works_again.set()
    wait_until(lambda: not writer_runs())


def test_what_comes_after_the_end_is_dropped_and_keeps_nobody(tmp_path: Path) -> None:
    files = RotatingWriter(tmp_path / "f", "x")
    files.put(RECORD)
    files.close()
    files.put(RECORD)
    assert not writer_runs()
    assert counts(files) == {"written": 1, "stopped": 1}


# -- folders that others may write to ----------------------------------------------------------


def a_file_of_another_user(path: Path, elsewhere: Path) -> None:
    path.touch()
    path.chmod(0o666)
    os.chown(path, 65534, 65534)


def a_hard_link(path: Path, elsewhere: Path) -> None:
    path.hardlink_to(elsewhere)


def a_link(path: Path, elsewhere: Path) -> None:
    path.symlink_to(elsewhere)


def a_fifo(path: Path, elsewhere: Path) -> None:
    os.mkfifo(path)


def a_fifo_that_is_read_from(path: Path, elsewhere: Path) -> None:
    os.mkfifo(path)
    os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # until the end of the process


@pytest.mark.parametrize(
    "put", [a_file_of_another_user, a_hard_link, a_link, a_fifo, a_fifo_that_is_read_from]
)
def test_what_others_have_put_in_its_place_is_not_written_to(
    put: Callable[[Path, Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its name can be foretold, and what is in it is for its user only."""
    if put is a_file_of_another_user and os.geteuid() != 0:
        pytest.skip("only root can act as somebody else")
    folder, elsewhere = tmp_path / "f", tmp_path / "elsewhere"
    folder.mkdir(mode=0o777)
    elsewhere.touch()
    put(folder / f"x.{os.getpid()}.binlog", elsewhere)
    files = RotatingWriter(folder, "x")
    files.put(RECORD)
    files.close()
    assert not writer_runs()
    assert counts(files) == {"written": 0, "not_written": 1}
    assert "cannot be written" in caplog.text
    assert elsewhere.read_bytes() == b""
    if files.path.is_file():
        assert files.path.read_bytes() == b""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can act as somebody else")
def test_old_files_of_other_users_are_left(tmp_path: Path) -> None:
    for number in range(5):
        path = tmp_path / f"x.99999990{number}.binlog"
        path.touch()
        os.chown(path, 65534, 65534)
    files = RotatingWriter(tmp_path, "x", max_files=1)
    files.put(RECORD)
    files.close()
    assert len(list(tmp_path.iterdir())) == 6
