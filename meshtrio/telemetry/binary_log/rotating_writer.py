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

from meshtrio.telemetry.metric_families import MetricFamily, MetricKind, MetricPoint

_log = logging.getLogger("meshtrio.telemetry")

DEFAULT_MAX_FILE_SIZE = 64 * 2**20
"""Bytes of one file, by default."""
DEFAULT_MAX_FILES = 2
"""How many are kept of a process, by default."""
_LENGTH_PREFIX = struct.Struct(">I")
_MAX_QUEUED_BYTES = 8 * 2**20
"""Bytes of records that wait to be written."""
_WRITE_INTERVAL = 0.05
"""Seconds between two writes, which then are of many records: the fewer, the less the thread that
makes calls is held up."""
_RETRY_DELAY = 5.0
"""Seconds until a file is tried again after a failure."""
_CLOSE_TIMEOUT = 2.0
"""Seconds that what is left has to be written in at the end."""


class RotatingWriter:
    """Takes records from any thread; a thread of its own writes them to `folder/name.pid.binlog`.

    The file is made for the first record, with mode 0600, in a folder that is made with mode 0700.
    When it is full it becomes `….binlog.1`, and so on, as many as are to be kept. Of processes of
    the same name that are gone as many files are kept, too, and the older ones removed.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        max_file_size: int = DEFAULT_MAX_FILE_SIZE,
        max_files: int = DEFAULT_MAX_FILES,
    ) -> None:
        """`size`: bytes of one file; `files`: how many are kept, the one that grows among them."""
        self.path = directory / f"{name}.{os.getpid()}.binlog"
        self._name = name
        self._max_file_size, self._max_files = max_file_size, max_files
        self._queue: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._bytes_queued = self._bytes_processed = 0
        """Bytes, each counted by one side only, so that there is nothing to lock."""
        self._records_queued = self._records_processed = self._records_written = 0
        self._dropped: Counter[str] = Counter()
        self._fd: int | None = None
        self._file_offset = 0
        """Bytes in the file."""
        self._retry_at = 0.0
        self._last_error = ""
        self._closing = threading.Event()
        # A daemon: it may never come back from a disk that hangs.
        self._thread = threading.Thread(target=self._writer_loop, name="binary log", daemon=True)
        self._thread.start()

    def put(self, record: bytes) -> None:
        """Have a record written. Never blocks: it is dropped where there is no room for it."""
        size = len(record) + _LENGTH_PREFIX.size
        if self._closing.is_set():
            self._dropped["stopped"] += 1
        elif size > self._max_file_size:
            self._dropped["too_large"] += 1
        elif self._bytes_queued - self._bytes_processed + size > _MAX_QUEUED_BYTES:
            self._dropped["queue_full"] += 1
        else:
            self._bytes_queued += size
            self._records_queued += 1
            self._queue.put(_LENGTH_PREFIX.pack(len(record)) + record)

    def close(self) -> None:
        """Write what waits, for two seconds at the most, and nothing after that. Blocks."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(_CLOSE_TIMEOUT)
        self._dropped["stopped"] += self._records_queued - self._records_processed
        dropped = sum(self._dropped.values())
        if dropped:
            _log.warning("%d entries of the binary log %s were dropped", dropped, self.path)

    # -- in the thread -----------------------------------------------------------------------

    def _writer_loop(self) -> None:
        going_on = True
        while going_on:
            records = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    records.append(self._queue.get_nowait())
            going_on = None not in records
            whole = [record for record in records if record is not None]
            self._write_all(whole)
            self._bytes_processed += sum(map(len, whole))
            self._records_processed += len(whole)
            self._closing.wait(_WRITE_INTERVAL)
        if self._fd is not None:
            os.close(self._fd)

    def _write_all(self, records: Iterable[bytes]) -> None:
        batch: list[bytes] = []
        size = 0
        for record in records:
            if self._file_offset + size + len(record) > self._max_file_size:
                self._write(batch)
                batch, size = [], 0
                self._rotate()
            batch.append(record)
            size += len(record)
        self._write(batch)

    def _write(self, batch: list[bytes]) -> None:
        """Write records, all or none of them."""
        if not batch:
            return
        if time.monotonic() < self._retry_at:
            self._dropped["not_written"] += len(batch)
            return
        try:
            self._append(b"".join(batch))
        except OSError as exc:
            self._dropped["not_written"] += len(batch)
            self._on_write_error(exc)
        else:
            self._records_written += len(batch)
            self._last_error = ""

    def _append(self, data: bytes) -> None:
        if self._fd is None:
            self._open_file()
        assert self._fd is not None
        left = memoryview(data)
        try:
            while left:
                left = left[os.write(self._fd, left) :]
        except OSError:
            # No part of a record may stay, or nobody could read what comes after it.
            with contextlib.suppress(OSError):
                os.ftruncate(self._fd, self._file_offset)
            raise
        self._file_offset += len(data)

    def _open_file(self) -> None:
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._open_directory() as folder:
            self._fd = _open_private_file(self.path.name, folder)
            self._file_offset = os.fstat(self._fd).st_size
            _remove_stale_files(folder, self._name, self._max_files)

    @contextlib.contextmanager
    def _open_directory(self) -> Iterator[int]:
        """The folder by its descriptor: others may be able to put another in its place."""
        folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield folder
        finally:
            os.close(folder)

    def _rotate(self) -> None:
        """Begin another file, and keep as many as are wanted."""
        if self._fd is None:
            return
        os.close(self._fd)
        self._fd, self._file_offset = None, 0
        try:
            with self._open_directory() as folder:
                for number in range(self._max_files - 1, 0, -1):
                    with contextlib.suppress(FileNotFoundError):
                        before, after = self._rotated_name(number - 1), self._rotated_name(number)
                        os.replace(before, after, src_dir_fd=folder, dst_dir_fd=folder)
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path.name, dir_fd=folder)
        except OSError as exc:
            self._on_write_error(exc)

    def _rotated_name(self, number: int) -> str:
        return f"{self.path.name}.{number}" if number else self.path.name

    def _on_write_error(self, exc: OSError) -> None:
        """Tell it, once for each reason in a row, and leave the disk alone for a while."""
        self._retry_at = time.monotonic() + _RETRY_DELAY
        if exc.strerror != self._last_error:
            _log.warning("the binary log %s cannot be written: %s", self.path, exc.strerror)
        self._last_error = str(exc.strerror)

    # -- telling -----------------------------------------------------------------------------

    def collect(self) -> list[MetricFamily]:
        """How many entries were written, and how many dropped."""
        dropped = [
            MetricPoint((("reason", reason),), self._dropped[reason])
            for reason in ("queue_full", "too_large", "not_written", "stopped")
        ]
        return [
            MetricFamily(
                "meshtrio.binary_log.written",
                MetricKind.COUNTER,
                "{entry}",
                "Entries of the binary log that were written.",
                [MetricPoint((), self._records_written)],
            ),
            MetricFamily(
                "meshtrio.binary_log.dropped",
                MetricKind.COUNTER,
                "{entry}",
                "Entries of the binary log that were not written.",
                dropped,
            ),
        ]


def _open_private_file(name: str, directory_fd: int) -> int:
    """Open a file to append to, making it if it is not there.

    What others have made in its place would have them read what is written: it is refused.

    Raises:
        OSError: it cannot be opened, or is not a file of this process's user alone.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    # Of a FIFO or a terminal neither the other end is waited for nor control taken.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    file = os.open(name, flags, 0o600, dir_fd=directory_fd)
    status = os.fstat(file)
    is_own = status.st_uid == os.geteuid() and status.st_nlink == 1
    if not (is_own and stat.S_ISREG(status.st_mode)):
        os.close(file)
        raise FileExistsError(
            errno.EEXIST, f"uid {status.st_uid} has made something else in its place; remove that"
        )
    return file


def _remove_stale_files(directory_fd: int, name: str, max_files: int) -> None:
    """Remove what processes of this name and user left that are gone, except the newest files."""
    file = re.compile(rf"{re.escape(name)}\.([0-9]{{1,9}})\.binlog(\.[0-9]+)?")
    left = []
    for entry in os.scandir(directory_fd):
        match = file.fullmatch(entry.name)
        if match is not None and not _is_process_alive(int(match[1])):
            with contextlib.suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    left.append((status.st_mtime, entry.name))
    for _, old in sorted(left, reverse=True)[max_files:]:
        with contextlib.suppress(OSError):
            os.unlink(old, dir_fd=directory_fd)


def _is_process_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
