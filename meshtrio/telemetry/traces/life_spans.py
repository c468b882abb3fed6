"""Spans of what plugins go through: one for each life of a process, one below it until it is ready.

The life's trace is known by its word, so that calls which failed by its end can point to it: see
`lives`.
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from meshtrio import __version__
from meshtrio.supervise import events
from meshtrio.supervise.decisions.policy import Exit
from meshtrio.telemetry.traces.lives import context_of_life
from meshtrio.telemetry.traces.spans import Traces

_Key = tuple[str, int, int]
"""Plugin, instance, pid: a successor lives beside whom it follows."""


class LifeSpans:
    """A subscriber to lifecycle events."""

    def __init__(self, traces: Traces) -> None:
        self._tracer = traces.everything.get_tracer("meshtrio.supervise", __version__)
        self._ids = traces.ids
        self._lives: dict[_Key, tuple[Span, Span]] = {}
        """The span of a life, and that of its start."""
        self._last: dict[tuple[str, int], Span] = {}
        """Of each instance, the life that ended last, for what follows from it."""

    def take(self, event: events.Event) -> None:
        match event:
            case events.Starting(life=life):
                self._begin(event, life)
            case events.Ready() | events.Unready() | events.CheckFailed() | events.Stopping():
                self._note(event)
            case events.Exited(ended=ended) | events.Stopped(ended=ended):
                self._end(event, ended, asked=isinstance(event, events.Stopped))

    def _begin(self, event: events.Starting, life: str) -> None:
        context = context_of_life(life)
        if context is None:
            return
        name = f"{event.plugin}/{event.instance}"
        attributes: dict[str, str | int] = {
            "meshtrio.plugin": event.plugin,
            "meshtrio.instance": event.instance,
            "process.pid": event.pid,
        }
        self._ids.trace_id, self._ids.span_id = context.trace_id, context.span_id
        before = self._last.get((event.plugin, event.instance))
        links = [] if before is None else [trace.Link(before.get_span_context())]
        span = self._tracer.start_span(
            f"life {name}", Context(), attributes=attributes, links=links
        )
        below = trace.set_span_in_context(span, Context())
        start = self._tracer.start_span(f"start {name}", below, attributes=attributes)
        self._lives[event.plugin, event.instance, event.pid] = (span, start)

    def _note(
        self, event: events.Ready | events.Unready | events.CheckFailed | events.Stopping
    ) -> None:
        found = self._lives.get((event.plugin, event.instance, event.pid))
        if found is None:
            return
        span, start = found
        reason = getattr(event, "reason", None)
        span.add_event(_name_of(event), None if reason is None else {"reason": reason})
        if isinstance(event, events.Ready) and start.is_recording():
            start.set_status(Status(StatusCode.OK))
            start.end()

    def _end(self, event: events.Exited | events.Stopped, ended: Exit, *, asked: bool) -> None:
        found = self._lives.pop((event.plugin, event.instance, event.pid), None)
        if found is None:
            return
        span, start = found
        well = asked or ended.clean
        status = Status(StatusCode.OK) if well else Status(StatusCode.ERROR, str(ended))
        if start.is_recording():
            start.set_status(Status(StatusCode.ERROR, str(ended)))
            start.end()
        if ended.status is not None:
            span.set_attribute("process.exit.code", ended.status)
        if ended.signal is not None:
            span.set_attribute("meshtrio.exit.signal", ended.signal)
        span.set_attribute("meshtrio.exit.cause", "stopped" if asked else ended.cause.value)
        span.add_event(_name_of(event))
        span.set_status(status)
        span.end()
        self._last[event.plugin, event.instance] = span


def _name_of(event: events.Event) -> str:
    return {
        events.Ready: "ready",
        events.Unready: "unready",
        events.CheckFailed: "health check failed",
        events.Stopping: "stopping",
        events.Exited: "exit",
        events.Stopped: "stopped",
    }[type(event)]
