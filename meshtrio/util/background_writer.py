"""A bounded queue whose items a thread writes, so that no producer waits for a slow disk."""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

_log = logging.getLogger("meshtrio")

T = TypeVar("T")

_FLUSH_CHECK_INTERVAL = 0.001
_writers: weakref.WeakSet[BackgroundWriter[Any]] = weakref.WeakSet()
"""All writers of this process."""


def flush_all(timeout: float) -> None:
    """Block until all writers have written their items, or `timeout` seconds."""
    end = time.monotonic() + timeout
    for writer in list(_writers):
        writer.flush(end - time.monotonic())


class BackgroundWriter(Generic[T]):
    """Passes queued items, in batches and in order, to a function in a thread of its own.

    The thread is a daemon: a write to a disk or a pipe that hangs may never return, and must not
    keep the process from exiting. `put` may be called in any thread and never waits for a write.
    """

    def __init__(
        self,
        write: Callable[[Sequence[T]], None],
        *,
        name: str,
        max_size: int,
        max_items: int = sys.maxsize,
        max_batch: int = sys.maxsize,
        write_interval: float = 0.0,
    ) -> None:
        """Start the thread. Raises RuntimeError if that is impossible.

        What `write` raises is logged, and the batch is lost. `max_size` and `max_items` limit the
        items that are queued or being written. A longer `write_interval`, in seconds between two
        writes, makes batches larger and takes the GIL from producers less often; closing ends it.
        """
        self._write = write
        self._max_size, self._max_items, self._max_batch = max_size, max_items, max_batch
        self._write_interval = write_interval
        self._queue: deque[tuple[T, int]] = deque()
        self._size = self._count = 0
        self._closing = threading.Event()
        # Its lock is reentrant: a signal handler may log while the thread it interrupts does.
        self._condition = threading.Condition()
        _writers.add(self)
        self._thread = threading.Thread(target=self._writer_loop, name=name, daemon=True)
        self._thread.start()

    @property
    def pending(self) -> int:
        """Number of items that are queued or being written."""
        return self._count

    @property
    def is_closed(self) -> bool:
        """Whether `close` was called: no further item is accepted."""
        return self._closing.is_set()

    def put(self, item: T, size: int = 1) -> bool:
        """Queue an item; return False, and drop it, if there is no room or the writer is closed."""
        with self._condition:
            if (
                self._closing.is_set()
                or self._size + size > self._max_size
                or self._count >= self._max_items
            ):
                return False
            self._queue.append((item, size))
            self._size += size
            self._count += 1
            self._condition.notify()
            return True

    def flush(self, timeout: float) -> bool:
        """Block until all items have been written, or `timeout` seconds.

        Returns whether they have been written.
        """
        end = time.monotonic() + timeout
        while self._count and time.monotonic() < end:
            time.sleep(_FLUSH_CHECK_INTERVAL)
        return not self._count

    def close(self, timeout: float) -> int:
        """Accept no more items; block until all have been written, or `timeout` seconds.

        Returns the number of items not written by then; the thread goes on with them if the write
        that it waits for returns. A second call waits again.
        """
        with self._condition:
            self._closing.set()
            self._condition.notify()
        self._thread.join(timeout)
        return self._count

    def _writer_loop(self) -> None:
        while batch := self._next_batch():
            try:
                self._write([item for item, _ in batch])
            except Exception:
                _log.exception("%s: %d items were not written", self._thread.name, len(batch))
            with self._condition:
                self._size -= sum(size for _, size in batch)
                self._count -= len(batch)
            del batch  # It may be large, and the next one may be long in coming.
            if self._write_interval:
                self._closing.wait(self._write_interval)

    def _next_batch(self) -> list[tuple[T, int]]:
        """Wait for items and take them from the queue; return none once it is closed and empty."""
        with self._condition:
            while not self._queue and not self._closing.is_set():
                self._condition.wait()
            count = min(len(self._queue), self._max_batch)
            return [self._queue.popleft() for _ in range(count)]
