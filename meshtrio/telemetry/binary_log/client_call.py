"""Entries of a client's call: what its caller sees of its attempts (gRFC A16).

The request is written once, by the attempt that sends it first. Of the responses, that of the
attempt is written whose response the caller receives: the committed one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import suppress

import attrs
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


@attrs.define(eq=False)
class LoggedClientCall(ClientCallTracer):
    """Writes the entries of a call, from the events of its attempts."""

    _entries: CallEntryWriter
    _method: Method
    _is_started: bool = False
    _half_closed: bool = False
    _headers_written: bool = False
    _sent_count: int = 0
    """Number of request messages written; further attempts send the same messages."""
    _deadline: float = math.inf
    _committed_attempt: _LoggedAttempt | None = None
    """The attempt whose response the caller receives; None until that is known."""
    _attempt_statuses: list[tuple[_LoggedAttempt, CallStatus]] = attrs.field(factory=list)

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        return _LoggedAttempt(self)

    def on_request_headers(
        self, authority: str, fields: Sequence[HeaderField], deadline: float
    ) -> None:
        """Write the client header, for the first attempt only."""
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

    def on_response_headers(self, attempt: _LoggedAttempt, headers: ResponseHeaders) -> None:
        # A unary call may have concurrent attempts; the first with headers need not be committed.
        if self._method.client_streams or self._method.server_streams:
            self._write_headers(attempt, headers)

    def on_message_received(
        self, attempt: _LoggedAttempt, headers: ResponseHeaders | None, message: bytes
    ) -> None:
        if headers is not None:
            self._write_headers(attempt, headers)
        if self._committed_attempt is attempt:
            self._entries.write_server_message(message)

    def _write_headers(self, attempt: _LoggedAttempt, headers: ResponseHeaders) -> None:
        if self._committed_attempt is None:
            self._committed_attempt = attempt
            self._headers_written = True
            self._entries.write_server_header(headers.metadata, attempt.peer_address)

    def on_attempt_ended(self, attempt: _LoggedAttempt, status: CallStatus) -> None:
        self._attempt_statuses.append((attempt, status))

    def call_ended(self, status: CallStatus | None) -> None:
        attempt, own = self._deciding_attempt(status)
        if status is None:
            # It was cancelled: by its caller alone, unless there is a status nevertheless.
            if (
                own is not None
                and attempt is not None
                and attempt.has_trailers
                and (attempt is self._committed_attempt or not own[0])
            ):
                status = own
            elif trio.current_time() >= self._deadline:
                status = DEADLINE_EXCEEDED, "the caller's deadline passed"
            else:
                self._entries.write_cancel()
                return
        self._write_trailer(attempt, status)

    def _deciding_attempt(
        self, status: CallStatus | None
    ) -> tuple[_LoggedAttempt | None, CallStatus | None]:
        """Return the attempt that determined the call's status, and that attempt's own status."""
        for attempt, own in reversed(self._attempt_statuses):
            matches = status is None or own[0] == status[0]
            if attempt is self._committed_attempt or (self._committed_attempt is None and matches):
                return attempt, own
        return self._committed_attempt, None

    def _write_trailer(self, attempt: _LoggedAttempt | None, status: CallStatus) -> None:
        stream = None if attempt is None else attempt.stream
        if attempt is None or stream is None:
            self._entries.write_trailer(*status)
            return
        headers, trailers = stream.headers, stream.trailers
        if headers is not None and headers.trailers is None and headers.http_status == 200:
            self._write_headers(attempt, headers)
        answered = headers is not None or trailers is not None
        peer = attempt.peer_address if answered and not self._headers_written else None
        if trailers is None:
            self._entries.write_trailer(*status, peer=peer)
        else:
            self._entries.write_trailer(*status, trailers.metadata, trailers.details, peer)


@attrs.define(eq=False)
class _LoggedAttempt(AttemptTracer):
    """Reports the events of one attempt to its call."""

    wants_pick_events = True

    _call: LoggedClientCall
    _address: str = ""
    _sent_count: int = 0
    stream: Stream | None = None

    @property
    def peer_address(self) -> object:
        """The server's Address; that of a Unix socket has its path."""
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
        headers = None if self.stream is None else self.stream.headers
        self._call.on_message_received(self, headers, message)

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        self._call.on_attempt_ended(self, status)


def _decode_metadata(fields: Sequence[HeaderField]) -> list[tuple[str, str | bytes]]:
    """Convert header fields to metadata; malformed binary values are omitted."""
    found: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        key = name.decode("latin-1")
        if not key.endswith("-bin"):
            found.append((key, value.decode("latin-1")))
        else:
            with suppress(MalformedHeadersError):
                found += [(key, part) for part in decode_binary(value)]
    return found
