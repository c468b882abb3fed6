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

    def add(self, event: events.LifecycleEvent) -> ShutdownReport:
        """Return the report with an event that happened after those in it."""
        name = f"{event.plugin}/{event.instance}"
        match event:
            # A process that an instance has started; its own process is reported as Stopped.
            case events.LeftRunning(pid=pid) if name not in self.unkillable:
                return attrs.evolve(self, unkillable=(*self.unkillable, f"{name} pid {pid}"))
            case events.Stopped(was_killed=was_killed, cut_calls=cut, cut_calls_known=is_known):
                how = "killed" if was_killed else "stopped"
                how = "unkillable" if event.exit.is_unkillable else how
                unknown = {*self.cut_calls_unknown, *(() if is_known else (name,))}
                return attrs.evolve(
                    self,
                    cut_calls=(*self.cut_calls, *cut),
                    cut_calls_unknown=tuple(sorted(unknown)),
                    **{how: (*getattr(self, how), name)},
                )
        return self


def _format_names(names: tuple[str, ...]) -> str:
    return f" ({', '.join(names)})" if names else ""
