"""Spans of process runs: one from start to exit, with a child span until the process is ready.

Calls that fail because the process exited link to its span: see `process_span_context`.
"""

from __future__ import annotations

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, Status, StatusCode

from meshtrio.supervisor import events
from meshtrio.telemetry.traces.pipeline import TracePipeline
from meshtrio.telemetry.traces.propagation import process_span_context
from meshtrio.util.version import VERSION

_EVENT_NAMES = {
    events.Ready: "ready",
    events.Unready: "unready",
    events.CheckFailed: "health check failed",
    events.Stopping: "stopping",
    events.Exited: "exit",
    events.Stopped: "stopped",
}
_ProcessKey = tuple[str, int, int]
"""Plugin, instance number and pid; an instance and its successor differ in the pid."""


class ProcessSpans:
    """Starts and ends the spans of process runs, from lifecycle events."""

    def __init__(self, traces: TracePipeline) -> None:
        self._tracer = traces.always_on_provider.get_tracer("meshtrio.supervisor", VERSION)
        self._id_generator = traces.id_generator
        self._open_spans: dict[_ProcessKey, tuple[Span, Span]] = {}
        """The span of each running process, and that of its start."""
        self._last_spans: dict[tuple[str, int], Span] = {}
        """The span of each instance's last process run, to which the next one links."""

    def on_event(self, event: events.LifecycleEvent) -> None:
        """Record an event of the supervisor."""
        if isinstance(event, events.Starting):
            self._start_spans(event)
        elif isinstance(event, events.ProcessEvent) and type(event) in _EVENT_NAMES:
            found = self._open_spans.get((event.plugin, event.instance, event.pid))
            if found is not None:
                self._record_event(event, *found)

    def _start_spans(self, event: events.Starting) -> None:
        context = process_span_context(event.launch_id)
        if context is None:
            return
        name = f"{event.plugin}/{event.instance}"
        attributes: dict[str, str | int] = {
            "meshtrio.plugin": event.plugin,
            "meshtrio.instance": event.instance,
            "process.pid": event.pid,
        }
        ids = self._id_generator
        ids.next_trace_id, ids.next_span_id = context.trace_id, context.span_id
        previous = self._last_spans.get((event.plugin, event.instance))
        links = [] if previous is None else [trace.Link(previous.get_span_context())]
        start_span, root = self._tracer.start_span, Context()
        span = start_span(f"run {name}", root, attributes=attributes, links=links)
        below = trace.set_span_in_context(span, root)
        start = start_span(f"start {name}", below, attributes=attributes)
        self._open_spans[event.plugin, event.instance, event.pid] = (span, start)

    def _record_event(self, event: events.ProcessEvent, span: Span, start: Span) -> None:
        reason = getattr(event, "reason", None)
        span.add_event(_EVENT_NAMES[type(event)], None if reason is None else {"reason": reason})
        if isinstance(event, (events.Exited, events.Stopped)):
            self._end_spans(event, span, start)
        elif isinstance(event, events.Ready):
            _end_start(start, Status(StatusCode.OK))

    def _end_spans(self, event: events.Exited | events.Stopped, span: Span, start: Span) -> None:
        ended, was_requested = event.exit, isinstance(event, events.Stopped)
        failed = Status(StatusCode.ERROR, str(ended))
        _end_start(start, failed)
        if ended.status is not None:
            span.set_attribute("process.exit.code", ended.status)
        if ended.signal is not None:
            span.set_attribute("meshtrio.exit.signal", ended.signal)
        span.set_attribute("meshtrio.exit.cause", "stopped" if was_requested else ended.cause.value)
        span.set_status(Status(StatusCode.OK) if was_requested or ended.is_clean else failed)
        span.end()
        del self._open_spans[event.plugin, event.instance, event.pid]
        self._last_spans[event.plugin, event.instance] = span


def _end_start(span: Span, status: Status) -> None:
    if span.is_recording():
        span.set_status(status)
        span.end()
