"""The calls of a client in a binary log: what of its attempts its caller gets to see (gRFC A16).

A request is written once, by whichever attempt sends it first. Of replies those of the attempt are
written that the caller gets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import trio

from meshtrio.grpc.headers import ResponseHeaders
from meshtrio.grpc.metadata import decode_binary
from meshtrio.grpc.status import DEADLINE_EXCEEDED, CallStatus
from meshtrio.http2.errors import MalformedHeadersError
from meshtrio.http2.hpack.decoder import HeaderField
from meshtrio.rpc.method import Method
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer import AttemptKind, AttemptTracer, ClientCallTracer, PickedAttempt
from meshtrio.telemetry.binary_log.entry_writer import CallEntryWriter, make_address


class LoggedClientCall(ClientCallTracer):
    """One call, and the entries that are written of it."""

    __slots__ = (
        "_attempt_statuses",
        "_committed_attempt",
        "_deadline",
        "_entries",
        "_half_closed",
        "_headers_written",
        "_is_started",
        "_method",
        "_sent_count",
    )

    def __init__(self, entries: CallEntryWriter, method: Method) -> None:
        self._entries = entries
        self._method = method
        self._is_started = self._half_closed = self._headers_written = False
        self._sent_count = 0
        """Messages that were written; other attempts send the same ones."""
        self._deadline = math.inf
        self._committed_attempt: _LoggedAttempt | None = None
        """The attempt whose reply the caller gets."""
        self._attempt_statuses: list[tuple[_LoggedAttempt, CallStatus]] = []

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        return _LoggedAttempt(self)

    def on_request_headers(
        self, authority: str, fields: Sequence[HeaderField], deadline: float
    ) -> None:
        """Its first attempt is about to be made."""
        if self._is_started:
            return
        self._is_started = True
        self._deadline = deadline
        timeout = None if deadline == math.inf else deadline - trio.current_time()
        self._entries.write_client_header(
            self._method.path, authority, _decode_metadata(fields), timeout
        )

    def on_message_sent(self, message: bytes, number: int) -> None:
        if number > self._sent_count:
            self._sent_count = number
            self._entries.write_client_message(message)

    def on_half_close(self) -> None:
        if not self._half_closed:
            self._half_closed = True
            self._entries.write_half_close()

    def on_response_headers(self, attempt: _LoggedAttempt, head: ResponseHeaders) -> None:
        # A unary call may have several attempts at a time, and the first head need not win.
        if self._method.client_streams or self._method.server_streams:
            self._write_headers(attempt, head)

    def on_message_received(
        self, attempt: _LoggedAttempt, head: ResponseHeaders | None, message: bytes
    ) -> None:
        if head is not None:
            self._write_headers(attempt, head)
        if self._committed_attempt is attempt:
            self._entries.write_server_message(message)

    def _write_headers(self, attempt: _LoggedAttempt, head: ResponseHeaders) -> None:
        if self._committed_attempt is None:
            self._committed_attempt = attempt
            self._headers_written = True
            self._entries.write_server_header(head.metadata, attempt.peer_address)

    def on_attempt_ended(self, attempt: _LoggedAttempt, outcome: CallStatus) -> None:
        self._attempt_statuses.append((attempt, outcome))

    def call_ended(self, status: CallStatus | None) -> None:
        attempt, found = self._deciding_attempt(status)
        if status is None:
            status = self._status_of_cancelled_call(attempt, found)
            if status is None:
                self._entries.write_cancel()
                return
        self._write_trailer(attempt, status)

    def _deciding_attempt(
        self, outcome: CallStatus | None
    ) -> tuple[_LoggedAttempt | None, CallStatus | None]:
        """The attempt that the call's end is that of, and how it ended itself."""
        for attempt, own in reversed(self._attempt_statuses):
            is_its = outcome is None or own[0] == outcome[0]
            if attempt is self._committed_attempt or (self._committed_attempt is None and is_its):
                return attempt, own
        return self._committed_attempt, None

    def _status_of_cancelled_call(
        self, attempt: _LoggedAttempt | None, attempt_status: CallStatus | None
    ) -> CallStatus | None:
        """Its status, None where its caller cancelled it and no more."""
        has_status = attempt is not None and attempt.has_trailers and attempt_status is not None
        if (
            has_status
            and attempt_status
            and (attempt is self._committed_attempt or not attempt_status[0])
        ):
            return attempt_status
        if trio.current_time() >= self._deadline:
            return DEADLINE_EXCEEDED, "the caller's deadline passed"
        return None

    def _write_trailer(self, attempt: _LoggedAttempt | None, outcome: CallStatus) -> None:
        stream = None if attempt is None else attempt.stream
        if attempt is None or stream is None:
            self._entries.write_trailer(*outcome)
            return
        head, trailers = stream.headers, stream.trailers
        if head is not None and head.trailers is None and head.http_status == 200:
            self._write_headers(attempt, head)
        came = head is not None or trailers is not None
        peer = attempt.peer_address if came and not self._headers_written else None
        if trailers is None:
            self._entries.write_trailer(*outcome, peer=peer)
        else:
            self._entries.write_trailer(*outcome, trailers.metadata, trailers.details, peer)


class _LoggedAttempt(AttemptTracer):
    __slots__ = ("_address", "_call", "_sent_count", "stream")

    wants_pick_events = True

    def __init__(self, call: LoggedClientCall) -> None:
        self._call = call
        self._address = ""
        self._sent_count = 0
        self.stream: Stream | None = None

    @property
    def peer_address(self) -> object:
        """An Address of the server; of a Unix socket, with its path."""
        host = "" if self.stream is None else self.stream.peer.address
        return make_address(host, self._address.removeprefix("unix:"))

    @property
    def has_trailers(self) -> bool:
        return self.stream is not None and self.stream.trailers is not None

    def before_pick(self, authority: str, fields: Sequence[HeaderField], deadline: float) -> None:
        self._call.on_request_headers(authority, fields, deadline)

    def endpoint_picked(self, attempt: PickedAttempt, *, was_delayed: bool) -> None:
        self._address = attempt.address
        self.stream = attempt.stream
        attempt.stream.message_tracer = self

    def message_sent(self, message: bytes, wire_size: int) -> None:
        self._sent_count += 1
        self._call.on_message_sent(message, self._sent_count)

    def half_closed(self) -> None:
        self._call.on_half_close()

    def headers_received(self, headers: ResponseHeaders) -> None:
        self._call.on_response_headers(self, headers)

    def message_received(self, message: bytes, wire_size: int) -> None:
        head = None if self.stream is None else self.stream.headers
        self._call.on_message_received(self, head, message)

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        self._call.on_attempt_ended(self, status)


def _decode_metadata(fields: Sequence[HeaderField]) -> list[tuple[str, str | bytes]]:
    """Metadata of header fields."""
    found: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        key = name.decode("latin-1")
        if not key.endswith("-bin"):
            found.append((key, value.decode("latin-1")))
        else:
            with suppress(MalformedHeadersError):
                found += [(key, part) for part in decode_binary(value)]
    return found
