"""Logs what a template writes to stdout and stderr, which is what its modules print."""

from __future__ import annotations

import logging

import attrs
import trio

from meshtrio.config import OutputConfig
from meshtrio.supervisor.process.output.output_lines import LineSplitter, RateLimiter
from meshtrio.supervisor.process.saved_processes import CLOSED, SavedPipe

_log = logging.getLogger("meshtrio.mesh")


@attrs.define(eq=False)
class TemplateOutput:
    """Logs the lines of one pipe: a `PipeConsumer`."""

    _name: str
    """The name of the template in the log."""
    is_flooding: bool = False
    last_line: str = ""
    """The last line that was not empty."""
    has_ended: bool = False
    """Whether the pipe has ended."""
    _splitter: LineSplitter = attrs.field(factory=LineSplitter)
    _limiter: RateLimiter = attrs.field(factory=lambda: RateLimiter(OutputConfig()))

    def adopt(self, saved: SavedPipe) -> None:
        """Continue with what was read before an upgrade."""
        self._splitter.adopt(saved.data, saved.truncated)

    def save(self, descriptor: int) -> SavedPipe:
        """Return what an upgrade hands over of a pipe."""
        data, truncated = self._splitter.save()
        if self.has_ended:
            descriptor = CLOSED
        return SavedPipe(descriptor=descriptor, data=data, truncated=truncated)

    def feed(self, data: bytes) -> None:
        """Add bytes that were read."""
        self._splitter.feed(data)

    def handle(self) -> bool:
        """Log the lines that are complete; they are few, or dropped."""
        while (line := self._splitter.next_line()) is not None:
            self._log_line(line[0])
        return False

    def skip_lines(self) -> None:
        """Drop all lines that were read."""
        self._splitter.next_block()

    def finish(self) -> None:
        """Log the last line, even if it is unfinished."""
        self.has_ended = True
        for line, _ in self._splitter.finish():
            self._log_line(line)

    def _log_line(self, line: str) -> None:
        self.last_line = line.strip() or self.last_line
        self.is_flooding = not self._limiter.try_acquire(trio.current_time())
        if not self.is_flooding:
            _log.info("%s: %s", self._name, line)
