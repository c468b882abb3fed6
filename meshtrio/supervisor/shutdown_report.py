"""How a mesh came down: what stopped by itself, what was killed, what could not be."""

from __future__ import annotations

import attrs

from meshtrio.supervisor import events


@attrs.frozen
class ShutdownReport:
    """Instances as "plugin/number", in the order they ended."""

    stopped: tuple[str, ...] = ()
    """By themselves, within their stop_timeout."""
    killed: tuple[str, ...] = ()
    unkillable: tuple[str, ...] = ()
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
        parts += [f"{len(self.killed)} were killed" + _format_names(self.killed)]
        if self.unkillable:
            parts.append(f"{len(self.unkillable)} could not be" + _format_names(self.unkillable))
        if self.cut_calls:
            parts.append(f"{len(self.cut_calls)} calls were cut" + _format_names(self.cut_calls))
        if self.cut_calls_unknown:
            unknown = ", ".join(self.cut_calls_unknown)
            parts.append(f"whether calls of {unknown} were cut is not known")
        return ", ".join(parts)


def _format_names(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names)})" if names else ""


class ShutdownReporter:
    """A subscriber that makes the report, from when `begin` is called."""

    def __init__(self) -> None:
        self.report = ShutdownReport()
        self._is_started = False

    def start(self) -> None:
        self._is_started = True

    def on_event(self, event: events.LifecycleEvent) -> None:
        if self._is_started and isinstance(event, events.LeftRunning):
            self._add_unkillable(event)
        if not (self._is_started and isinstance(event, events.Stopped)):
            return
        who = f"{event.plugin}/{event.instance}"
        unknown = self.report.cut_calls_unknown
        self.report = report = attrs.evolve(
            self.report,
            cut_calls=(*self.report.cut_calls, *event.cut_calls),
            cut_calls_unknown=unknown if event.cut_calls_known else tuple(sorted((*unknown, who))),
        )
        if event.exit.is_unkillable:
            self.report = attrs.evolve(report, unkillable=(*report.unkillable, who))
        elif event.was_killed:
            self.report = attrs.evolve(report, killed=(*report.killed, who))
        else:
            self.report = attrs.evolve(report, stopped=(*report.stopped, who))

    def _add_unkillable(self, event: events.LeftRunning) -> None:
        """A process that an instance has started; the instance's own is reported as its end."""
        instance = f"{event.plugin}/{event.instance}"
        if instance not in self.report.unkillable:
            who = f"{instance} pid {event.pid}"
            self.report = attrs.evolve(self.report, unkillable=(*self.report.unkillable, who))
