"""Spans on their way to a collector: a bounded queue, and a task that sends what is in it.

A collector that is slow, gone or talks nonsense never holds up who ends a span: spans that there is
no room for are dropped, and counted. The queue is OpenTelemetry's SpanProcessor (extra `tracing`).
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from meshtrio.telemetry.metric_families import MetricFamily, MetricKind, MetricPoint

_log = logging.getLogger("meshtrio.telemetry")

_MAX_QUEUE_SIZE = 2048
"""As OpenTelemetry's own processor has it (OTEL_BSP_MAX_QUEUE_SIZE)."""
_MAX_BATCH_SIZE = 256
_SCHEDULE_DELAY = 1.0
"""Seconds that spans wait at the most for others to go with them."""
EXPORT_TIMEOUT = 10.0
"""Seconds for one batch, attempts included, as OTEL_EXPORTER_OTLP_TIMEOUT has it by default."""
_SHUTDOWN_TIMEOUT = 2.0
"""Seconds that what is left has at the end."""

ExportSpans = Callable[[Sequence[ReadableSpan]], Awaitable["PartialSuccess"]]
"""Sends spans. Raises NotSentError where none arrived."""


@attrs.frozen
class PartialSuccess:
    """Spans that came to nothing though others of theirs arrived."""

    rejected_spans: int = 0
    error_message: str = ""


class SpanExportError(Exception):
    """The collector did not get spans; the text says why."""


class TrioBatchSpanProcessor(SpanProcessor):
    """Takes spans from any thread; `run` sends them."""

    def __init__(self, export: ExportSpans) -> None:
        self._export = export
        self._queue: deque[ReadableSpan] = deque()
        self._exported = 0
        self._dropped: Counter[str] = Counter()
        self._batch_full: trio.Event | None = None
        self._is_shutting_down = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._last_drop_reason = ""

    # -- for the SDK -------------------------------------------------------------------------

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if len(self._queue) >= _MAX_QUEUE_SIZE:
            self._dropped["queue_full"] += 1
            return
        self._queue.append(span)
        if len(self._queue) == _MAX_BATCH_SIZE:
            self._wake_exporter()

    def _wake_exporter(self) -> None:
        """A batch is full: no need to wait for the interval."""
        if self._token is not None:
            try:
                self._token.run_sync_soon(self._set_batch_full, idempotent=True)
            except trio.RunFinishedError:
                self._token = None

    def _set_batch_full(self) -> None:
        if self._batch_full is not None:
            self._batch_full.set()

    # -- sending -----------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send what comes until cancelled; what is left then, or on its way, has a moment."""
        self._token = trio.lowlevel.current_trio_token()
        self._is_shutting_down = False
        async with trio.open_nursery() as nursery:
            task_status.started()  # Before the shield: no start that is cancelled could end it.
            with trio.CancelScope(shield=True) as scope:
                nursery.start_soon(self._wait_for_shutdown, scope)
                while not self._is_shutting_down:
                    self._batch_full = trio.Event()
                    with trio.move_on_after(_SCHEDULE_DELAY):
                        await self._batch_full.wait()
                    await self._export_all()
            self._token = None
            if scope.cancelled_caught:
                self._log_drop_reason(f"{_SHUTDOWN_TIMEOUT:g} s after the end some were not sent")
            self._dropped["stopped"] += len(self._queue)
            self._queue.clear()

    async def _wait_for_shutdown(self, scope: trio.CancelScope) -> None:
        """What is cancelled is this: to cut a batch short would lose what is in it."""
        try:
            await trio.sleep_forever()
        finally:
            scope.deadline = trio.current_time() + _SHUTDOWN_TIMEOUT
            self._is_shutting_down = True
            self._set_batch_full()

    async def _export_all(self) -> None:
        while self._queue:
            count = min(_MAX_BATCH_SIZE, len(self._queue))
            batch = [self._queue.popleft() for _ in range(count)]
            try:
                rejected = await self._export(batch)
            except SpanExportError as exc:
                self._dropped["not_sent"] += count
                self._log_drop_reason(str(exc))
            except BaseException as exc:
                self._dropped["not_sent"] += count
                if not isinstance(exc, Exception):
                    raise
                # Whatever the collector answers costs this batch, not those to come.
                _log.exception("spans were not sent")
            else:
                self._exported += count - rejected.rejected_spans
                self._dropped["rejected"] += rejected.rejected_spans
                self._log_drop_reason(rejected.error_message)

    def _log_drop_reason(self, reason: str) -> None:
        """Once for each reason in a row."""
        if reason and reason != self._last_drop_reason:
            _log.warning("spans are dropped: %s", reason)
        self._last_drop_reason = reason

    # -- telling -----------------------------------------------------------------------------

    def collect(self) -> list[MetricFamily]:
        dropped = [
            MetricPoint((("reason", reason),), self._dropped[reason])
            for reason in ("queue_full", "not_sent", "rejected", "stopped")
        ]
        return [
            MetricFamily(
                "meshtrio.spans.sent",
                MetricKind.COUNTER,
                "{span}",
                "Spans that the collector took.",
                [MetricPoint((), self._exported)],
            ),
            MetricFamily(
                "meshtrio.spans.dropped",
                MetricKind.COUNTER,
                "{span}",
                "Spans that came to nothing.",
                dropped,
            ),
            MetricFamily(
                "meshtrio.spans.waiting",
                MetricKind.GAUGE,
                "{span}",
                "Spans that are still to be sent.",
                [MetricPoint((), len(self._queue))],
            ),
        ]
