"""Reports how a mesh stopped: which processes stopped in time, and which did not."""

from __future__ import annotations

import attrs

from meshtrio.supervisor import events


@attrs.frozen
class ShutdownReport:
    """How a mesh stopped. Instances are `plugin/number`, in the order they ended."""

    stopped: tuple[str, ...] = ()
    """Instances that stopped within their `stop_timeout`."""
    killed: tuple[str, ...] = ()
    """Instances that did not, and were killed."""
    unkillable: tuple[str, ...] = ()
    """Instances that still run after SIGKILL: they run as other users, which this mesh may not
    signal, or the kernel does not end them, as with a disk that hangs. For processes that an
    instance has started itself, the pid is appended."""
    cut_calls: tuple[str, ...] = ()
    """Paths of the calls that were cut, as far as plugins reported them."""
    cut_calls_unknown: tuple[str, ...] = ()
    """Instances of which it is not known whether calls were cut, sorted: those that are not made
    with meshtrio, and those that were killed before they could report it."""

    def __str__(self) -> str:
        parts = [f"{len(self.stopped)} processes stopped in time"]
        parts += [f"{len(self.killed)} were killed" + _format_names(self.killed)]
        if self.unkillable:
            names = _format_names(self.unkillable)
            parts.append(f"{len(self.unkillable)} could not be killed{names}")
        if self.cut_calls:
            parts.append(f"{len(self.cut_calls)} calls were cut" + _format_names(self.cut_calls))
        if self.cut_calls_unknown:
            unknown = ", ".join(self.cut_calls_unknown)
            parts.append(f"whether calls of {unknown} were cut is not known")
        return ", ".join(parts)


def _format_names(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names)})" if names else ""


class ShutdownReporter:
    """A subscriber that makes the report, of what happens from when it is subscribed."""

    def __init__(self) -> None:
        self.report = ShutdownReport()
        """The report so far."""

    def on_event(self, event: events.LifecycleEvent) -> None:
        """Add an event to the report."""
        name = f"{event.plugin}/{event.instance}"
        if isinstance(event, events.LeftRunning):
            # A process that an instance has started; its own process is reported as Stopped.
            if name not in self.report.unkillable:
                self._append("unkillable", f"{name} pid {event.pid}")
        elif isinstance(event, events.Stopped):
            how = "killed" if event.was_killed else "stopped"
            self._append("unkillable" if event.exit.is_unkillable else how, name)
            self._append("cut_calls", *event.cut_calls)
            if not event.cut_calls_known:
                unknown = tuple(sorted((*self.report.cut_calls_unknown, name)))
                self.report = attrs.evolve(self.report, cut_calls_unknown=unknown)

    def _append(self, field: str, *names: str) -> None:
        self.report = attrs.evolve(self.report, **{field: (*getattr(self.report, field), *names)})
