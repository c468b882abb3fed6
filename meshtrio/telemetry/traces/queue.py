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

from meshtrio.telemetry.families import Family, Kind, Point

_log = logging.getLogger("meshtrio.telemetry")

_MOST_WAITING = 2048
"""As OpenTelemetry's own processor has it (OTEL_BSP_MAX_QUEUE_SIZE)."""
_BATCH = 256
_INTERVAL = 1.0
"""Seconds that spans wait at the most for others to go with them."""
PATIENCE = 10.0
"""Seconds for one batch, attempts included, as OTEL_EXPORTER_OTLP_TIMEOUT has it by default."""
_LAST_WORDS = 2.0
"""Seconds that what is left has at the end."""

Send = Callable[[Sequence[ReadableSpan]], Awaitable["Rejected"]]
"""Sends spans. Raises NotSentError where none arrived."""


@attrs.frozen
class Rejected:
    """Spans that came to nothing though others of theirs arrived."""

    count: int = 0
    why: str = ""


class NotSentError(Exception):
    """The collector did not get spans; the text says why."""


class SpanQueue(SpanProcessor):
    """Takes spans from any thread; `run` sends them."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[ReadableSpan] = deque()
        self._sent = 0
        self._dropped: Counter[str] = Counter()
        self._full: trio.Event | None = None
        self._ending = False
        self._token: trio.lowlevel.TrioToken | None = None
        self._complaint = ""

    # -- for the SDK -------------------------------------------------------------------------

    def on_end(self, span: ReadableSpan) -> None:
        if span.context is None or not span.context.trace_flags.sampled:
            return
        if len(self._waiting) >= _MOST_WAITING:
            self._dropped["queue_full"] += 1
            return
        self._waiting.append(span)
        if len(self._waiting) == _BATCH:
            self._hurry()

    def _hurry(self) -> None:
        """A batch is full: no need to wait for the interval."""
        if self._token is not None:
            try:
                self._token.run_sync_soon(self._note_full, idempotent=True)
            except trio.RunFinishedError:
                self._token = None

    def _note_full(self) -> None:
        if self._full is not None:
            self._full.set()

    # -- sending -----------------------------------------------------------------------------

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send what comes until cancelled; what is left then, or on its way, has a moment."""
        self._token = trio.lowlevel.current_trio_token()
        self._ending = False
        async with trio.open_nursery() as nursery:
            task_status.started()  # Before the shield: no start that is cancelled could end it.
            with trio.CancelScope(shield=True) as scope:
                nursery.start_soon(self._wait_for_the_end, scope)
                while not self._ending:
                    self._full = trio.Event()
                    with trio.move_on_after(_INTERVAL):
                        await self._full.wait()
                    await self._send_all()
            self._token = None
            if scope.cancelled_caught:
                self._complain(f"{_LAST_WORDS:g} s after the end some were not sent")
            self._dropped["stopped"] += len(self._waiting)
            self._waiting.clear()

    async def _wait_for_the_end(self, scope: trio.CancelScope) -> None:
        """What is cancelled is this: to cut a batch short would lose what is in it."""
        try:
            await trio.sleep_forever()
        finally:
            scope.deadline = trio.current_time() + _LAST_WORDS
            self._ending = True
            self._note_full()

    async def _send_all(self) -> None:
        while self._waiting:
            count = min(_BATCH, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(count)]
            try:
                rejected = await self._send(batch)
            except NotSentError as exc:
                self._dropped["not_sent"] += count
                self._complain(str(exc))
            except BaseException as exc:
                self._dropped["not_sent"] += count
                if not isinstance(exc, Exception):
                    raise
                # Whatever the collector answers costs this batch, not those to come.
                _log.exception("spans were not sent")
            else:
                self._sent += count - rejected.count
                self._dropped["rejected"] += rejected.count
                self._complain(rejected.why)

    def _complain(self, why: str) -> None:
        """Once for each reason in a row."""
        if why and why != self._complaint:
            _log.warning("spans are dropped: %s", why)
        self._complaint = why

    # -- telling -----------------------------------------------------------------------------

    def families(self) -> list[Family]:
        dropped = [
            Point((("reason", reason),), self._dropped[reason])
            for reason in ("queue_full", "not_sent", "rejected", "stopped")
        ]
        return [
            Family(
                "meshtrio.spans.sent",
                Kind.COUNTER,
                "{span}",
                "Spans that the collector took.",
                [Point((), self._sent)],
            ),
            Family(
                "meshtrio.spans.dropped",
                Kind.COUNTER,
                "{span}",
                "Spans that came to nothing.",
                dropped,
            ),
            Family(
                "meshtrio.spans.waiting",
                Kind.GAUGE,
                "{span}",
                "Spans that are still to be sent.",
                [Point((), len(self._waiting))],
            ),
        ]
