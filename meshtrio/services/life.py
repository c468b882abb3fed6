"""One life of a process in the history: what is kept of it, and how it is bounded."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import attrs

from meshtrio.messages import control
from meshtrio.supervisor.policy.restart import Exit
from meshtrio.util.text import replace_surrogates

_FIRST_MOMENTS = 10
_MAX_MOMENTS = 50
"""Number of moments of one life: the first, such as when it was ready, and the last of a process
that reports NOT_SERVING again and again."""
_MAX_TEXT_LENGTH = 200
"""Characters of a moment's text, of the reason, and of a line."""
_MAX_LAST_LINES = 10
"""Lines of stderr of a process that has failed."""
_BASE_SIZE = 1200
_MOMENT_SIZE = 150
"""Bytes that a life and a moment take in memory in addition to their texts, rounded up."""

Moment = tuple[float, str, str]
"""Time, kind and text."""


@attrs.define(eq=False)
class LifeRecord:
    """A life that may still change; see `Life` in control.proto for the fields."""

    id: int
    plugin: str
    instance: int
    is_task: bool
    pid: int | None
    started: float
    follows: str
    start: str = ""
    ended: float | None = None
    outcome: str = ""
    reason: str = ""
    exit_status: int | None = None
    signal: int | None = None
    last_lines: tuple[str, ...] = ()
    next_state: str = ""
    moments: list[Moment] = attrs.field(factory=list)
    moments_dropped: int = 0
    size: int = _BASE_SIZE
    """Bytes that it takes in memory, estimated."""

    def add_moment(self, time: float, kind: str, text: str) -> None:
        """Add what happened; the moments in the middle are dropped if there are too many."""
        self._append((time, sys.intern(kind), truncate(text)))
        while len(self.moments) > _MAX_MOMENTS:
            _, _, dropped = self.moments.pop(_FIRST_MOMENTS)
            self.size -= _MOMENT_SIZE + sys.getsizeof(dropped)
            self.moments_dropped += 1

    def _append(self, moment: Moment) -> None:
        self.moments.append(moment)
        self.size += _MOMENT_SIZE + sys.getsizeof(moment[2])

    def end(self, time: float, outcome: str, exit: Exit, reason: str) -> None:
        """Record how it has ended."""
        self.ended, self.outcome, self.reason = time, outcome, truncate(reason)
        self.exit_status, self.signal = exit.status, exit.signal
        if outcome == "failed":
            self.last_lines = _bound_lines(exit.stderr_tail)
        self.size += sum(map(sys.getsizeof, (self.reason, *self.last_lines)))

    def to_message(self) -> control.Life:
        """Return the message of it."""
        return control.Life(
            id=self.id,
            plugin=self.plugin,
            instance=self.instance,
            task=self.is_task,
            pid=self.pid,
            started=self.started,
            ended=self.ended,
            start=self.start,
            follows=self.follows,
            moments=[control.Moment(time=t, kind=k, text=text) for t, k, text in self.moments],
            moments_dropped=self.moments_dropped,
            outcome=self.outcome,
            reason=self.reason,
            exit_status=self.exit_status,
            signal=self.signal,
            last_lines=self.last_lines,
            next_state=self.next_state,
        )

    @classmethod
    def from_message(cls, life: control.Life) -> LifeRecord:
        """Return the life of a message, which an upgrade has handed over."""
        found = cls(
            id=life.id,
            plugin=life.plugin,
            instance=life.instance,
            is_task=life.task,
            pid=life.pid if life.HasField("pid") else None,
            started=life.started,
            follows=life.follows,
            start=life.start,
            ended=life.ended if life.HasField("ended") else None,
            outcome=life.outcome,
            reason=life.reason,
            exit_status=life.exit_status if life.HasField("exit_status") else None,
            signal=life.signal if life.HasField("signal") else None,
            last_lines=tuple(life.last_lines),
            next_state=life.next_state,
            moments_dropped=life.moments_dropped,
        )
        found.size += sum(map(sys.getsizeof, (life.reason, *life.last_lines)))
        for moment in life.moments:
            found._append((moment.time, sys.intern(moment.kind), moment.text))
        return found


def truncate(text: str) -> str:
    """Return a text that protobuf has, and that is not too long."""
    text = replace_surrogates(text)
    return text if len(text) <= _MAX_TEXT_LENGTH else f"{text[: _MAX_TEXT_LENGTH - 1]}…"


def _bound_lines(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(map(truncate, lines[-_MAX_LAST_LINES:]))
