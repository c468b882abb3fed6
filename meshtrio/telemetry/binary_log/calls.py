"""The calls of a client in a binary log: what of its attempts its caller gets to see (gRFC A16).

A request is written once, by whichever attempt sends it first. Of replies those of the attempt are
written that the caller gets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import trio

from meshtrio.rpc.observe import (
    DEADLINE_EXCEEDED,
    AttemptKind,
    AttemptWatch,
    CallWatch,
    Field,
    Outcome,
    Placed,
)
from meshtrio.rpc.seam import Method
from meshtrio.rpc.stream import Stream
from meshtrio.telemetry.binary_log.entries import CallEntries, address_of
from meshtrio.wire.errors import MalformedHead
from meshtrio.wire.grpc import decode_binary
from meshtrio.wire.heads import ResponseHead


class LoggedCall(CallWatch):
    """One call, and the entries that are written of it."""

    __slots__ = (
        "_begun",
        "_committed",
        "_deadline",
        "_ends",
        "_entries",
        "_half_closed",
        "_has_head",
        "_method",
        "_sent",
    )

    def __init__(self, entries: CallEntries, method: Method) -> None:
        self._entries = entries
        self._method = method
        self._begun = self._half_closed = self._has_head = False
        self._sent = 0
        """Messages that were written; other attempts send the same ones."""
        self._deadline = math.inf
        self._committed: _Attempt | None = None
        """The attempt whose reply the caller gets."""
        self._ends: list[tuple[_Attempt, Outcome]] = []

    def attempt(self, kind: AttemptKind, previous: int) -> AttemptWatch:
        return _Attempt(self)

    def begin(self, authority: str, fields: Sequence[Field], deadline: float) -> None:
        """Its first attempt is about to be made."""
        if self._begun:
            return
        self._begun = True
        self._deadline = deadline
        timeout = None if deadline == math.inf else deadline - trio.current_time()
        self._entries.client_header(self._method.path, authority, _decoded(fields), timeout)

    def sent(self, message: bytes, number: int) -> None:
        if number > self._sent:
            self._sent = number
            self._entries.client_message(message)

    def sent_all(self) -> None:
        if not self._half_closed:
            self._half_closed = True
            self._entries.half_close()

    def answered(self, attempt: _Attempt, head: ResponseHead) -> None:
        # A unary call may have several attempts at a time, and the first head need not win.
        if self._method.client_streams or self._method.server_streams:
            self._write_head(attempt, head)

    def received(self, attempt: _Attempt, head: ResponseHead | None, message: bytes) -> None:
        if head is not None:
            self._write_head(attempt, head)
        if self._committed is attempt:
            self._entries.server_message(message)

    def _write_head(self, attempt: _Attempt, head: ResponseHead) -> None:
        if self._committed is None:
            self._committed = attempt
            self._has_head = True
            self._entries.server_header(head.metadata, attempt.peer)

    def attempt_ended(self, attempt: _Attempt, outcome: Outcome) -> None:
        self._ends.append((attempt, outcome))

    def ended(self, outcome: Outcome | None) -> None:
        attempt, found = self._last(outcome)
        if outcome is None:
            outcome = self._of_a_call_given_up(attempt, found)
            if outcome is None:
                self._entries.cancel()
                return
        self._write_end(attempt, outcome)

    def _last(self, outcome: Outcome | None) -> tuple[_Attempt | None, Outcome | None]:
        """The attempt that the call's end is that of, and how it ended itself."""
        for attempt, own in reversed(self._ends):
            is_its = outcome is None or own[0] == outcome[0]
            if attempt is self._committed or (self._committed is None and is_its):
                return attempt, own
        return self._committed, None

    def _of_a_call_given_up(self, attempt: _Attempt | None, own: Outcome | None) -> Outcome | None:
        """Its status, None where its caller cancelled it and no more."""
        has_status = attempt is not None and attempt.has_trailers and own is not None
        if has_status and own and (attempt is self._committed or not own[0]):
            return own
        if trio.current_time() >= self._deadline:
            return DEADLINE_EXCEEDED, "the caller's deadline passed"
        return None

    def _write_end(self, attempt: _Attempt | None, outcome: Outcome) -> None:
        stream = None if attempt is None else attempt.stream
        if attempt is None or stream is None:
            self._entries.trailer(*outcome)
            return
        head, trailers = stream.head, stream.trailers
        if head is not None and head.trailers is None and head.http_status == 200:
            self._write_head(attempt, head)
        came = head is not None or trailers is not None
        peer = attempt.peer if came and not self._has_head else None
        if trailers is None:
            self._entries.trailer(*outcome, peer=peer)
        else:
            self._entries.trailer(*outcome, trailers.metadata, trailers.details, peer)


class _Attempt(AttemptWatch):
    __slots__ = ("_address", "_call", "_sent", "stream")

    follows = True

    def __init__(self, call: LoggedCall) -> None:
        self._call = call
        self._address = ""
        self._sent = 0
        self.stream: Stream | None = None

    @property
    def peer(self) -> object:
        """An Address of the server; of a Unix socket, with its path."""
        host = "" if self.stream is None else self.stream.peer.address
        return address_of(host, self._address.removeprefix("unix:"))

    @property
    def has_trailers(self) -> bool:
        return self.stream is not None and self.stream.trailers is not None

    def asks(self, authority: str, fields: Sequence[Field], deadline: float) -> None:
        self._call.begin(authority, fields, deadline)

    def placed(self, attempt: Placed, *, waited: bool) -> None:
        self._address = attempt.address
        self.stream = attempt.stream
        attempt.stream.watch = self

    def sent(self, message: bytes, wire_size: int) -> None:
        self._sent += 1
        self._call.sent(message, self._sent)

    def sent_all(self) -> None:
        self._call.sent_all()

    def answered(self, head: ResponseHead) -> None:
        self._call.answered(self, head)

    def received(self, message: bytes, wire_size: int) -> None:
        head = None if self.stream is None else self.stream.head
        self._call.received(self, head, message)

    def finished(self, outcome: Outcome, stream: Stream | None) -> None:
        self._call.attempt_ended(self, outcome)


def _decoded(fields: Sequence[Field]) -> list[tuple[str, str | bytes]]:
    """Metadata of header fields."""
    found: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        key = name.decode("latin-1")
        if not key.endswith("-bin"):
            found.append((key, value.decode("latin-1")))
        else:
            with suppress(MalformedHead):
                found += [(key, part) for part in decode_binary(value)]
    return found
