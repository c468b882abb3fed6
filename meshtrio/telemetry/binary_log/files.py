"""Records on their way to files: a bounded queue, and a thread that writes what is in it.

A disk that is slow, full or gone never holds up who has a record: those there is no room for are
dropped, and counted. A file is as grpc-go's sink writes it: before each record its length, as four
bytes, the highest first.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import queue
import re
import stat
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from meshtrio.telemetry.families import Family, Kind, Point

_log = logging.getLogger("meshtrio.telemetry")

SIZE = 64 * 2**20
"""Bytes of one file, by default."""
FILES = 2
"""How many are kept of a process, by default."""
_LENGTH = struct.Struct(">I")
_MOST_WAITING = 8 * 2**20
"""Bytes of records that wait to be written."""
_REST = 0.05
"""Seconds between two writes, which then are of many records: the fewer, the less the thread that
makes calls is held up."""
_PAUSE = 5.0
"""Seconds until a file is tried again after a failure."""
_LAST_WORDS = 2.0
"""Seconds that what is left has to be written in at the end."""


class LogFiles:
    """Takes records from any thread; a thread of its own writes them to `folder/name.pid.binlog`.

    The file is made for the first record, with mode 0600, in a folder that is made with mode 0700.
    When it is full it becomes `….binlog.1`, and so on, as many as are to be kept. Of processes of
    the same name that are gone as many files are kept, too, and the older ones removed.
    """

    def __init__(self, folder: Path, name: str, *, size: int = SIZE, files: int = FILES) -> None:
        """`size`: bytes of one file; `files`: how many are kept, the one that grows among them."""
        self.path = folder / f"{name}.{os.getpid()}.binlog"
        self._name = name
        self._size, self._files = size, files
        self._waiting: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._given = self._taken = 0
        """Bytes, each counted by one side only, so that there is nothing to lock."""
        self._given_records = self._taken_records = self._written = 0
        self._dropped: Counter[str] = Counter()
        self._file: int | None = None
        self._at = 0
        """Bytes in the file."""
        self._try_again_at = 0.0
        self._complaint = ""
        self._finishing = threading.Event()
        # A daemon: it may never come back from a disk that hangs.
        self._thread = threading.Thread(target=self._run, name="binary log", daemon=True)
        self._thread.start()

    def put(self, record: bytes) -> None:
        """Have a record written. Never blocks: it is dropped where there is no room for it."""
        size = len(record) + _LENGTH.size
        if self._finishing.is_set():
            self._dropped["stopped"] += 1
        elif size > self._size:
            self._dropped["too_large"] += 1
        elif self._given - self._taken + size > _MOST_WAITING:
            self._dropped["queue_full"] += 1
        else:
            self._given += size
            self._given_records += 1
            self._waiting.put(_LENGTH.pack(len(record)) + record)

    def finish(self) -> None:
        """Write what waits, for two seconds at the most, and nothing after that. Blocks."""
        self._finishing.set()
        self._waiting.put(None)
        self._thread.join(_LAST_WORDS)
        self._dropped["stopped"] += self._given_records - self._taken_records
        dropped = sum(self._dropped.values())
        if dropped:
            _log.warning("%d entries of the binary log %s were dropped", dropped, self.path)

    # -- in the thread -----------------------------------------------------------------------

    def _run(self) -> None:
        going_on = True
        while going_on:
            records = [self._waiting.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    records.append(self._waiting.get_nowait())
            going_on = None not in records
            whole = [record for record in records if record is not None]
            self._write_all(whole)
            self._taken += sum(map(len, whole))
            self._taken_records += len(whole)
            self._finishing.wait(_REST)
        if self._file is not None:
            os.close(self._file)

    def _write_all(self, records: Iterable[bytes]) -> None:
        batch: list[bytes] = []
        size = 0
        for record in records:
            if self._at + size + len(record) > self._size:
                self._write(batch)
                batch, size = [], 0
                self._turn_over()
            batch.append(record)
            size += len(record)
        self._write(batch)

    def _write(self, batch: list[bytes]) -> None:
        """Write records, all or none of them."""
        if not batch:
            return
        if time.monotonic() < self._try_again_at:
            self._dropped["not_written"] += len(batch)
            return
        try:
            self._append(b"".join(batch))
        except OSError as exc:
            self._dropped["not_written"] += len(batch)
            self._fail(exc)
        else:
            self._written += len(batch)
            self._complaint = ""

    def _append(self, data: bytes) -> None:
        if self._file is None:
            self._open()
        assert self._file is not None
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError:
            # No part of a record may stay, or nobody could read what comes after it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._file, self._at)
            raise
        self._at += len(data)

    def _open(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._folder() as folder:
            self._file = _open_own(self.path.name, folder)
            self._at = os.fstat(self._file).st_size
            _remove_old(folder, self._name, self._files)

    @contextlib.contextmanager
    def _folder(self) -> Iterator[int]:
        """The folder by its descriptor: others may be able to put another in its place."""
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield folder
        finally:
            os.close(folder)

    def _turn_over(self) -> None:
        """Begin another file, and keep as many as are wanted."""
        if self._file is None:
            return
        os.close(self._file)
        self._file, self._at = None, 0
        try:
            with self._folder() as folder:
                for number in range(self._files - 1, 0, -1):
                    with contextlib.suppress(FileNotFoundError):
                        before, after = self._numbered(number - 1), self._numbered(number)
                        os.replace(before, after, src_dir_fd=folder, dst_dir_fd=folder)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path.name, dir_fd=folder)
        except OSError as exc:
            self._fail(exc)

    def _numbered(self, number: int) -> str:
        return f"{self.path.name}.{number}" if number else self.path.name

    def _fail(self, exc: OSError) -> None:
        """Tell it, once for each reason in a row, and leave the disk alone for a while."""
        self._try_again_at = time.monotonic() + _PAUSE
        if exc.strerror != self._complaint:
            _log.warning("the binary log %s cannot be written: %s", self.path, exc.strerror)
        self._complaint = str(exc.strerror)

    # -- telling -----------------------------------------------------------------------------

    def families(self) -> list[Family]:
        """How many entries were written, and how many dropped."""
        dropped = [
            Point((("reason", reason),), self._dropped[reason])
            for reason in ("queue_full", "too_large", "not_written", "stopped")
        ]
        return [
            Family(
                "meshtrio.binary_log.written",
                Kind.COUNTER,
                "{entry}",
                "Entries of the binary log that were written.",
                [Point((), self._written)],
            ),
            Family(
                "meshtrio.binary_log.dropped",
                Kind.COUNTER,
                "{entry}",
                "Entries of the binary log that were not written.",
                dropped,
            ),
        ]


def _open_own(name: str, folder: int) -> int:
    """Open a file to append to, making it if it is not there.

    What others have made in its place would have them read what is written: it is refused.

    Raises:
        OSError: it cannot be opened, or is not a file of this process's user alone.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    # Of a FIFO or a terminal neither the other end is waited for nor control taken.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    file = os.open(name, flags, 0o600, dir_fd=folder)
    status = os.fstat(file)
    is_own = status.st_uid == os.geteuid() and status.st_nlink == 1
    if not (is_own and stat.S_ISREG(status.st_mode)):
        os.close(file)
        raise FileExistsError(
            errno.EEXIST, f"uid {status.st_uid} has made something else in its place; remove that"
        )
    return file


def _remove_old(folder: int, name: str, kept: int) -> None:
    """Remove what processes of this name and user left that are gone, except the newest files."""
    file = re.compile(rf"{re.escape(name)}\.([0-9]{{1,9}})\.binlog(\.[0-9]+)?")
    left = []
    for entry in os.scandir(folder):
        match = file.fullmatch(entry.name)
        if match is not None and not _is_alive(int(match[1])):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    left.append((status.st_mtime, entry.name))
    for _, old in sorted(left, reverse=True)[kept:]:
        with contextlib.suppress(OSError):
            os.unlink(old, dir_fd=folder)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
