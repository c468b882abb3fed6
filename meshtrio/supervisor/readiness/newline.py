"""A process that is ready when it has written a newline to a descriptor.

Source: s6's notification-fd, https://skarnet.org/software/s6/notifywhenup.html.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import trio

from meshtrio.supervisor.probe import NotReadyError

_READ_SIZE = 4096
_READ_PAUSE = 0.01
"""Seconds between two reads of a process that writes something else than a newline."""


@attrs.define(eq=False)
class NewlinePipe:
    """The pipe on which a process reports that it is ready."""

    fd: int
    """The descriptor that it has in the process."""
    _read_fd: int = attrs.field(default=-1, init=False)
    write_fd: int = attrs.field(default=-1, init=False)
    """The end that the process inherits."""
    _has_ended: bool = attrs.field(default=False, init=False)

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Have the pipe open during the block. Raises OSError if no descriptor is left."""
        self._read_fd, self.write_fd = os.pipe()
        os.set_blocking(self._read_fd, False)
        try:
            yield
        finally:
            self.close_write_end()
            self._close_read_end()

    def close_write_end(self) -> None:
        """Close our copy of what the process has inherited."""
        if self.write_fd >= 0:
            os.close(self.write_fd)
            self.write_fd = -1

    def _close_read_end(self) -> None:
        if self._read_fd >= 0:
            trio.lowlevel.notify_closing(self._read_fd)
            os.close(self._read_fd)
            self._read_fd = -1

    async def wait_ready(self, max_time: float) -> None:
        """Wait for a newline, then close the pipe, as s6 does. Raises NotReadyError."""
        with trio.move_on_after(max_time):
            while not self._has_ended:
                await trio.lowlevel.wait_readable(self._read_fd)
                if self._read_newline():
                    self._close_read_end()
                    return
                await trio.sleep(_READ_PAUSE)
            await trio.sleep_forever()
        missing = f"it has not written a newline to descriptor {self.fd}"
        if self._has_ended:
            missing = f"it has closed descriptor {self.fd} without a newline"
        raise NotReadyError(max_time, missing)

    def _read_newline(self) -> bool:
        try:
            data = os.read(self._read_fd, _READ_SIZE)
        except OSError as exc:
            if exc.errno in (errno.EAGAIN, errno.EINTR):
                return False
            data = b""
        self._has_ended = not data
        return b"\n" in data
