"""How a mesh came down: what stopped by itself, what was killed, what could not be."""

from __future__ import annotations

import attrs

from meshtrio.supervise import events


@attrs.frozen
class ShutdownReport:
    """Instances as "plugin/number", in the order they ended."""

    stopped: tuple[str, ...] = ()
    """By themselves, within their stop_timeout."""
    killed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    """Still there after SIGKILL: they run as other users, which this mesh may not signal, or the
    kernel does not let go of them, as with a disk that hangs. Of processes that an instance has
    started itself, also the pid."""
    cut_calls: tuple[str, ...] = ()
    """Paths of the calls that were cut, as far as plugins reported them."""
    cut_calls_unknown: tuple[str, ...] = ()
    """Instances of which it is not known whether calls were cut, sorted: those that do not run
    meshtrio, and those that were killed before they could report it."""

    def __str__(self) -> str:
        parts = [f"{len(self.stopped)} processes stopped by themselves"]
        parts += [f"{len(self.killed)} were killed" + _names(self.killed)]
        if self.left:
            parts.append(f"{len(self.left)} could not be" + _names(self.left))
        if self.cut_calls:
            parts.append(f"{len(self.cut_calls)} calls were cut" + _names(self.cut_calls))
        if self.cut_calls_unknown:
            unknown = ", ".join(self.cut_calls_unknown)
            parts.append(f"whether calls of {unknown} were cut is not known")
        return ", ".join(parts)


def _names(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names)})" if names else ""


class Reporter:
    """A subscriber that makes the report, from when `begin` is called."""

    def __init__(self) -> None:
        self.report = ShutdownReport()
        self._begun = False

    def begin(self) -> None:
        self._begun = True

    def take(self, event: events.Event) -> None:
        if self._begun and isinstance(event, events.LeftRunning):
            self._note_left(event)
        if not (self._begun and isinstance(event, events.Stopped)):
            return
        who = f"{event.plugin}/{event.instance}"
        unknown = self.report.cut_calls_unknown
        self.report = report = attrs.evolve(
            self.report,
            cut_calls=(*self.report.cut_calls, *event.cut_calls),
            cut_calls_unknown=unknown if event.cut_calls_known else tuple(sorted((*unknown, who))),
        )
        if event.ended.left:
            self.report = attrs.evolve(report, left=(*report.left, who))
        elif event.forced:
            self.report = attrs.evolve(report, killed=(*report.killed, who))
        else:
            self.report = attrs.evolve(report, stopped=(*report.stopped, who))

    def _note_left(self, event: events.LeftRunning) -> None:
        """A process that an instance has started; the instance's own is reported as its end."""
        instance = f"{event.plugin}/{event.instance}"
        if instance not in self.report.left:
            who = f"{instance} pid {event.pid}"
            self.report = attrs.evolve(self.report, left=(*self.report.left, who))
