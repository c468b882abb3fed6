"""One attempt of a call: a stream on a connection that was picked for it, and what came of it."""

from __future__ import annotations

import math
from functools import partial
from time import time
from typing import Any

import purerpc
import trio

from meshtrio.client.head import (
    fields_of,
    fitting,
    request_size,
    value_of,
    varying_block,
    with_key,
)
from meshtrio.client.picker import ANY, CallOptions, Picker, Target, Wish
from meshtrio.errors import ConnectionLostError, PluginDiedError
from meshtrio.policies.retry import PUSHBACK, Pushback, pushback_of
from meshtrio.rpc.message_limits import MessageLimits
from meshtrio.rpc.observe import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    AttemptWatch,
    Outcome,
    outcome_of,
)
from meshtrio.rpc.seam import Message, Method
from meshtrio.rpc.status import DEADLINE_SLACK, error_for_http_status, error_for_status
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracing import notify
from meshtrio.structured import check_in_trio
from meshtrio.wire.compression import IDENTITY
from meshtrio.wire.errors import ErrorCode
from meshtrio.wire.grpc import Metadata
from meshtrio.wire.hpack import HeaderBlock

_AT_DEADLINE = (purerpc.StatusCode.DEADLINE_EXCEEDED, purerpc.StatusCode.CANCELLED)
"""Statuses with which servers end a call at its deadline: by their own answer, or by a reset."""


class Attempt:
    """One stream of a call: opened on a picked connection, ended whatever happens."""

    __slots__ = (
        "_compressed",
        "_counted",
        "_deadline",
        "_failure",
        "_method",
        "_picker",
        "_recorded",
        "_watch",
        "stream",
        "target",
    )

    def __init__(
        self,
        picker: Picker,
        target: Target,
        stream: Stream,
        method: Method,
        deadline: float,
        *,
        compressed: bool,
        watch: AttemptWatch | None = None,
        limits: MessageLimits | None = None,
    ) -> None:
        if limits is not None:
            stream.message_limits = limits
        self._picker = picker
        self._compressed = compressed
        self._method = method
        self._deadline = deadline
        self._recorded = not picker.observes
        self._counted = picker.counts
        self._watch = watch
        self._failure: Outcome | None = None
        """What it failed with, as the watch is to be told."""
        self.target = target
        self.stream = stream

    @classmethod
    async def open(
        cls,
        picker: Picker,
        method: Method,
        block: HeaderBlock,
        options: CallOptions,
        *,
        previous: int = 0,
        wish: Wish = ANY,
        watch: AttemptWatch | None = None,
        limits: MessageLimits | None = None,
    ) -> Attempt:
        """Wait for a ready endpoint with room and open a stream there; nothing is written yet.

        `previous`: attempts of the same call that went before this one. `watch` is told how it
        ends, where it never gets that far, too. `limits`: those of the call's messages, where the
        connection's are not to hold.
        """
        deadline = math.inf
        try:
            until = trio.current_effective_deadline()
            if until == -math.inf:  # Its caller is cancelled.
                await trio.lowlevel.checkpoint()
            deadline = until
            fields = fields_of(picker, options, previous, watch, deadline)
            if picker.hash_header is not None:
                wish = with_key(wish, picker.hash_header, picker, options)
            ready = picker.pick_ready(wish)
            target = ready or await picker.pick(wish)
            size, traced = request_size(block, fields, watch), watch
            while True:
                if size > target.connection.engine.max_sent_header_list:
                    fields, traced = fitting(target, block, fields, options, watch)
                if picker.counts and target.connection.has_room:
                    picker.enter()
                head = block.data + varying_block(deadline, fields, traced)
                stream = target.connection.start(head)
                if stream is not None:
                    break
                # The place that was waited for is used before anything else is awaited, so that no
                # waiter is left asleep beside a free place.
                await target.connection.wait_for_room()
                if not target.connection.usable:
                    target = await picker.pick(wish)
        except BaseException as exc:
            _note_failure(watch, exc, deadline)
            raise
        stream.owner = picker
        picker.calls.last_started = target.connection.tally.last_started = time()
        compressed = options.compression != IDENTITY
        attempt = cls(
            picker,
            target,
            stream,
            method,
            deadline,
            compressed=compressed,
            watch=watch,
            limits=limits,
        )
        if watch is not None and watch.follows:
            stream.path = method.path
            placed = partial(watch.placed, waited=target is not ready)
            notify(method.path, placed, attempt)
        return attempt

    async def receive(self) -> Any:
        """Take the next reply, None after the last if the call succeeded, else raise its status."""
        try:
            data = await self.stream.receive()
            if data is None:
                self._raise_for_status()
                return None
        except purerpc.RpcFailedError as exc:
            raise await self._explained(exc) from None
        return self._parsed(data)

    async def receive_only(self) -> Any:
        """Take the one reply of a call that has one."""
        try:
            data, count = await self.stream.receive_only()
            if self.stream.ended:
                self._raise_for_status()
        except purerpc.RpcFailedError as exc:
            raise await self._explained(exc) from None
        if data is None or count != 1:
            # statuscodes.md, "Response cardinality violation".
            raise purerpc.UnimplementedError(
                f"the call succeeded with {count} replies instead of one"
            )
        return self._parsed(data)

    async def _explained(self, failure: purerpc.RpcFailedError) -> Exception:
        """Give what the caller is to catch for a call that failed.

        An answer that the server gave at the caller's own deadline may arrive a moment before that
        deadline passes here. It then waits for the caller's cancel scope, so that
        `trio.move_on_after` moves on and `trio.fail_after` raises TooSlowError.
        """
        if failure.status.status_code in _AT_DEADLINE:
            until = trio.current_effective_deadline()
            if until - trio.current_time() < DEADLINE_SLACK:
                await trio.sleep_until(until)
        self._record(success=False)
        self._failure = failure.status.status_code.value, failure.status.status_message
        if isinstance(failure, ConnectionLostError):
            explained = await self._picker.explain(self.target, failure)
            if self._watch is not None and isinstance(explained, PluginDiedError):
                notify(self._method.path, self._watch.died, explained.life)
            return explained
        return failure  # type: ignore[no-any-return]  # purerpc has no types

    def _parsed(self, data: bytes) -> Any:
        try:
            return self._method.response_type.FromString(data)
        except Exception as exc:
            raise purerpc.InternalError(f"a reply cannot be parsed: {exc}") from exc

    async def send(
        self, message: Message, *, compress: bool = True, end_stream: bool = False
    ) -> None:
        """Send a request, or learn that the call is over: `receive` then says how.

        When cancelled, the call is cancelled with it: part of the message may have gone out.
        """
        data = message.SerializeToString()
        compressed = self._compressed and compress
        try:
            await self.stream.send(data, compressed=compressed, end_stream=end_stream)
        except purerpc.RpcFailedError as exc:
            if not self.stream.over:
                # The message was refused here; the call has no more use.
                self.stream.fail(exc)
                self.end()
                raise
        except trio.Cancelled:
            self.end()
            raise

    def _raise_for_status(self) -> None:
        trailers, head = self.stream.trailers, self.stream.head
        if trailers is None and head is not None and head.http_status != 200:
            raise error_for_http_status(head.http_status)
        if trailers is None:
            raise purerpc.UnknownError("the peer ended the call without a status")
        if trailers.code:
            error = error_for_status(trailers.code, trailers.message)
            error.trailing_metadata = trailers.metadata
            error.status_details = trailers.details
            raise error
        if not self._recorded:
            self._record(success=True)

    # -- what becomes of it ------------------------------------------------------------------

    @property
    def address(self) -> str:
        """Of the endpoint it went to."""
        return "" if self.target.source is None else str(self.target.source.endpoint.address)

    @property
    def committed(self) -> bool:
        """The reply has begun, so the call may not be made again (gRFC A6)."""
        head = self.stream.head
        return head is not None and head.trailers is None

    @property
    def pushback(self) -> float | Pushback:
        """What the server says of another attempt."""
        return pushback_of(value_of(PUSHBACK, self.trailing_metadata or ()))

    @property
    def initial_metadata(self) -> Metadata | None:
        return None if self.stream.head is None else self.stream.head.metadata

    @property
    def trailing_metadata(self) -> Metadata | None:
        return None if self.stream.trailers is None else self.stream.trailers.metadata

    def end(self) -> None:
        """Cancel the call where it is not over; never blocks, and may be repeated."""
        if not self._recorded and not self.stream.over and trio.current_time() >= self._deadline:
            # Its caller gave it all the time there was.
            self._record(success=False)
        watch, self._watch = self._watch, None
        outcome = None if watch is None else self._outcome()
        self.stream.reset(ErrorCode.CANCEL)
        if self._counted:
            self._counted = False
            self._picker.leave()
        if watch is not None:
            notify(self._method.path, watch.finished, outcome, self.stream)

    def _outcome(self) -> Outcome:
        stream = self.stream
        if self._failure is not None:
            return self._failure
        if stream.trailers is not None:
            return stream.trailers.code, stream.trailers.message
        late = trio.current_time() >= self._deadline
        if stream.failure is not None:
            outcome = outcome_of(stream.failure, self._deadline)
            # A server that goes by the same deadline may have reset the stream before we could.
            if not late or outcome[0] != CANCELLED:
                return outcome
        if late:
            return DEADLINE_EXCEEDED, "the caller's deadline passed"
        return CANCELLED, "the caller gave the call up"

    def _record(self, *, success: bool) -> None:
        if not self._recorded:
            self._recorded = True
            self._picker.record(self.target, success=success)


def _note_failure(watch: AttemptWatch | None, failure: BaseException, deadline: float) -> None:
    """It has not found an endpoint. Raises UsageError if it was not called in trio."""
    if watch is not None:
        notify("an attempt", watch.finished, outcome_of(failure, deadline), None)
    if isinstance(failure, RuntimeError):
        check_in_trio("a method of a stub")  # Here it costs calls nothing.
