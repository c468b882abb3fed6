"""Rotated files of binary log records, written by a thread.

A disk that is slow, full or hangs never delays a call: records that do not fit the queue are
dropped, and counted. The format is that of grpc-go's sink: each record is preceded by its length as
four bytes, big-endian.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import struct
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path

from meshtrio.telemetry.metric_families import MetricFamily
from meshtrio.util.background_writer import BackgroundWriter
from meshtrio.util.descriptors import closing_descriptor
from meshtrio.util.log_once import ReasonChangeLogger

_log = logging.getLogger("meshtrio.telemetry")

DEFAULT_MAX_FILE_SIZE = 64 * 2**20
"""Default maximum size of a file, in bytes."""
DEFAULT_MAX_FILES = 2
"""Default number of files that are kept of a process."""
LENGTH_PREFIX = struct.Struct(">I")
"""The length of a record, which precedes it in the file."""
_MAX_QUEUED_BYTES = 8 * 2**20
"""Maximum total size of the records that wait to be written."""
_WRITE_INTERVAL = 0.05
"""Seconds between two writes. Fewer and larger writes take the GIL from calls less often."""
_RETRY_DELAY = 5.0
"""Seconds until a file is tried again after a failure."""
_CLOSE_TIMEOUT = 2.0
"""Seconds to write the remaining records at the end."""


class RotatingWriter:
    """Writes records to `directory/name.pid.binlog`; `put` may be called in any thread.

    The file is created with the first record, with mode 0600, in a directory that is created with
    mode 0700. A full file is renamed to `….binlog.1`, that to `….binlog.2`, and so on up to
    `max_files`. The same number of files is kept of earlier processes of the same name, and the
    older ones are removed.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        *,
        max_file_size: int = DEFAULT_MAX_FILE_SIZE,
        max_files: int = DEFAULT_MAX_FILES,
    ) -> None:
        """Start the thread; no file is created yet.

        Records larger than `max_file_size`, in bytes, are dropped, and all of them for five seconds
        after a failure.
        """
        self.path = directory / f"{name}.{os.getpid()}.binlog"
        self._name = name
        self._max_file_size, self._max_files = max_file_size, max_files
        self._written = 0
        self._dropped: Counter[str] = Counter()
        self._fd: int | None = None
        self._file_offset = 0
        """Size of the current file, in bytes."""
        self._retry_at = 0.0
        self._error_log = ReasonChangeLogger(_log)
        self._writer = BackgroundWriter(
            self._write_all,
            name="binary log",
            max_size=_MAX_QUEUED_BYTES,
            write_interval=_WRITE_INTERVAL,
        )

    def put(self, record: bytes) -> None:
        """Queue a record to be written, or drop it if there is no room. Never blocks."""
        size = len(record) + LENGTH_PREFIX.size
        if size > self._max_file_size:
            self._dropped["stopped" if self._writer.is_closed else "too_large"] += 1
        elif not self._writer.put(LENGTH_PREFIX.pack(len(record)) + record, size):
            self._dropped["stopped" if self._writer.is_closed else "queue_full"] += 1

    def close(self) -> None:
        """Write the queued records, within two seconds, and accept no more. Blocks."""
        unwritten = self._writer.close(_CLOSE_TIMEOUT)
        self._dropped["stopped"] += unwritten
        if not unwritten and self._fd is not None:
            os.close(self._fd)
            self._fd = None
        if dropped := sum(self._dropped.values()):
            _log.warning("%d entries of the binary log %s were dropped", dropped, self.path)

    # -- in the thread -----------------------------------------------------------------------

    def _write_all(self, records: Sequence[bytes]) -> None:
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
        """Write all records of a batch, or none."""
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
            self._written += len(batch)
            self._error_log.reset()

    def _append(self, data: bytes) -> None:
        if self._fd is None:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._open_directory() as folder:
                self._fd = _open_private_file(self.path.name, folder)
                self._file_offset = os.fstat(self._fd).st_size
                _remove_stale_files(folder, self._name, self._max_files)
        remaining = memoryview(data)
        try:
            while remaining:
                remaining = remaining[os.write(self._fd, remaining) :]
        except OSError:
            # A partial record would make everything after it unreadable.
            with suppress(OSError):
                os.ftruncate(self._fd, self._file_offset)
            raise
        self._file_offset += len(data)

    def _open_directory(self) -> AbstractContextManager[int]:
        """Yield a descriptor of the folder, which others may be able to replace by path."""
        return closing_descriptor(os.open(self.path.parent, os.O_DIRECTORY | os.O_CLOEXEC))

    def _rotate(self) -> None:
        """Rename the files, so that the next write creates another one."""
        if self._fd is None:
            return
        os.close(self._fd)
        self._fd, self._file_offset = None, 0
        try:
            with self._open_directory() as folder:
                for number in range(self._max_files - 1, 0, -1):
                    with suppress(FileNotFoundError):
                        before, after = self._rotated_name(number - 1), self._rotated_name(number)
                        os.replace(before, after, src_dir_fd=folder, dst_dir_fd=folder)
                with suppress(FileNotFoundError):
                    os.unlink(self.path.name, dir_fd=folder)
        except OSError as exc:
            self._on_write_error(exc)

    def _rotated_name(self, number: int) -> str:
        return f"{self.path.name}.{number}" if number else self.path.name

    def _on_write_error(self, exc: OSError) -> None:
        """Log the error, if the reason is new, and write nothing until the retry."""
        self._retry_at = time.monotonic() + _RETRY_DELAY
        reason = exc.strerror
        self._error_log.log(reason, "the binary log %s cannot be written: %s", self.path, reason)

    # -- metrics -----------------------------------------------------------------------------

    def collect(self) -> list[MetricFamily]:
        """Return the counters of written and dropped entries."""
        reasons = ("queue_full", "too_large", "not_written", "stopped")
        dropped = {(("reason", reason),): self._dropped[reason] for reason in reasons}
        prefix, text = "meshtrio.binary_log", "Entries of the binary log that were"
        written = {(): self._written}
        return [
            MetricFamily.counter(f"{prefix}.written", "{entry}", f"{text} written.", written),
            MetricFamily.counter(f"{prefix}.dropped", "{entry}", f"{text} not written.", dropped),
        ]


def _open_private_file(name: str, directory_fd: int) -> int:
    """Open a file to append to, or create it.

    A file of another user is refused, since its owner could read what is written.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    # Neither wait for the reader of a FIFO, nor take a terminal as the controlling one.
    flags |= os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    file = os.open(name, flags, 0o600, dir_fd=directory_fd)
    status = os.fstat(file)
    is_own = status.st_uid == os.geteuid() and status.st_nlink == 1
    if not (is_own and stat.S_ISREG(status.st_mode)):
        os.close(file)
        text = f"uid {status.st_uid} has put another file in its place; remove it"
        raise FileExistsError(errno.EEXIST, text)
    return file


def _remove_stale_files(directory_fd: int, name: str, max_files: int) -> None:
    """Remove the files of ended processes of this name and user, except for the newest."""
    file = re.compile(rf"{re.escape(name)}\.([0-9]{{1,9}})\.binlog(\.[0-9]+)?")
    stale_files = []
    for entry in os.scandir(directory_fd):
        match = file.fullmatch(entry.name)
        if match is not None and not _is_process_alive(int(match[1])):
            with suppress(FileNotFoundError):
                status = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid():
                    stale_files.append((status.st_mtime, entry.name))
    for _, file_name in sorted(stale_files, reverse=True)[max_files:]:
        with suppress(OSError):
            os.unlink(file_name, dir_fd=directory_fd)


def _is_process_alive(pid: int) -> bool:
    """Ask the kernel, since /proc may be missing or hide processes."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
