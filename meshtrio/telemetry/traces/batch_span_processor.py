"""A bounded queue of ended spans, and the task that exports them in batches.

Unlike OpenTelemetry's BatchSpanProcessor this one exports in a trio task, without a thread.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence

import trio
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor

from meshtrio.telemetry.metric_families import MetricFamily
from meshtrio.util.log_once import ReasonChangeLogger

_log = logging.getLogger("meshtrio.telemetry")

_MAX_QUEUE_SIZE = 2048
"""The default of OTEL_BSP_MAX_QUEUE_SIZE."""
_MAX_BATCH_SIZE = 256
_SCHEDULE_DELAY = 1.0
"""Maximum seconds that a span waits for its batch to fill."""
_SHUTDOWN_TIMEOUT = 2.0
"""Seconds to export the remaining spans at the end."""
EXPORT_TIMEOUT = 10.0
"""Seconds for one batch, retries included; the default of OTEL_EXPORTER_OTLP_TIMEOUT."""

ExportSpans = Callable[[Sequence[ReadableSpan]], Awaitable[tuple[int, str]]]
"""Exports a batch of spans, and returns how many were rejected, and why; 0 and "" if none were.
Raises SpanExportError if the collector received none of them."""


class SpanExportError(Exception):
    """A batch did not reach the collector; the message gives the reason."""


class TrioBatchSpanProcessor(SpanProcessor):
    """OpenTelemetry's SpanProcessor: takes spans in any thread, and exports them in `run`."""

    def __init__(self, export: ExportSpans) -> None:
        self._export = export
        self._queue: deque[ReadableSpan] = deque()
        self._exported = 0
        self._dropped: Counter[str] = Counter()
        self._batch_full = trio.Event()
        self._token: trio.lowlevel.TrioToken | None = None
        self._drop_log = ReasonChangeLogger(_log)

    # -- SpanProcessor -----------------------------------------------------------------------

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
        if self._token is not None:
            try:
                self._token.run_sync_soon(self._set_batch_full, idempotent=True)
            except trio.RunFinishedError:
                self._token = None

    def _set_batch_full(self) -> None:
        self._batch_full.set()

    # -- export ------------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Export spans until cancelled.

        Cancellation: Shielded for at most 2 s, to export the remaining spans.
        """
        self._token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            task_status.started()  # Before the shield, or a cancelled start would hang (trio#2895).
            with trio.CancelScope(shield=True) as scope:
                nursery.start_soon(self._wait_for_shutdown, scope)
                while scope.deadline == math.inf:  # Until the shutdown begins.
                    self._batch_full = trio.Event()
                    with trio.move_on_after(_SCHEDULE_DELAY):
                        await self._batch_full.wait()
                    await self._export_all()
            self._token = None
            if scope.cancelled_caught:
                seconds = f"{_SHUTDOWN_TIMEOUT:g} s"
                self._log_drop_reason(f"some were not exported within {seconds} of the end")
            self._dropped["stopped"] += len(self._queue)
            self._queue.clear()

    async def _wait_for_shutdown(self, scope: trio.CancelScope) -> None:
        """Receive the cancellation, from which the export is shielded so as to lose no batch."""
        try:
            await trio.sleep_forever()
        finally:
            scope.deadline = trio.current_time() + _SHUTDOWN_TIMEOUT
            self._set_batch_full()

    async def _export_all(self) -> None:
        while self._queue:
            count = min(_MAX_BATCH_SIZE, len(self._queue))
            batch = [self._queue.popleft() for _ in range(count)]
            try:
                rejected, reason = await self._export(batch)
            except BaseException as exc:
                self._dropped["not_sent"] += count
                if isinstance(exc, SpanExportError):
                    self._log_drop_reason(str(exc))
                elif isinstance(exc, Exception):
                    # A bug, or an answer that is malformed: it costs this batch, not the next ones.
                    _log.exception("exporting spans failed")
                else:
                    raise
            else:
                self._exported += count - rejected
                self._dropped["rejected"] += rejected
                self._log_drop_reason(reason)

    def _log_drop_reason(self, reason: str) -> None:
        """Log why spans are dropped, if the reason changed; "" means that none were."""
        if reason:
            self._drop_log.log(reason, "spans are dropped: %s", reason)
        else:
            self._drop_log.reset()

    # -- metrics -----------------------------------------------------------------------------

    def collect(self) -> list[MetricFamily]:
        """Return the counters of exported, dropped and queued spans."""
        reasons = ("queue_full", "not_sent", "rejected", "stopped")
        dropped = {(("reason", reason),): self._dropped[reason] for reason in reasons}
        sent, waiting = {(): self._exported}, {(): len(self._queue)}
        text, waiting_text = "Spans that the collector accepted.", "Spans that wait to be exported."
        return [
            MetricFamily.counter("meshtrio.spans.sent", "{span}", text, sent),
            MetricFamily.counter(
                "meshtrio.spans.dropped", "{span}", "Spans that were dropped.", dropped
            ),
            MetricFamily.gauge("meshtrio.spans.waiting", "{span}", waiting_text, waiting),
        ]
