"""The tracer of a binary log, and the entries of served calls and of clients' calls (gRFC A16)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import trio

from meshtrio.config.binary_log_filter import BinaryLogFilter
from meshtrio.grpc.headers import ResponseHeaders
from meshtrio.grpc.metadata import parse_metadata
from meshtrio.grpc.status import DEADLINE_EXCEEDED, CallStatus
from meshtrio.http2.hpack.decoder import HeaderField
from meshtrio.rpc import tracer
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.method import Method
from meshtrio.rpc.stream import Stream
from meshtrio.telemetry.binary_log import entry_writer


@attrs.frozen
class BinaryLog(tracer.ServerTracer, tracer.ClientTracer):
    """A tracer that writes entries of the calls that a filter selects.

    Of rejected calls there are none, since no application saw them.
    """

    _filter: BinaryLogFilter
    _write_entry: entry_writer.WriteEntry
    """Called with each serialized entry."""

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> tracer.ServerCallTracer:
        limits = self._filter.method_limits(method.service, method.name)
        if limits is None:
            return tracer.NO_SERVER_CALL_TRACER
        entries = entry_writer.CallEntryWriter(self._write_entry, limits, entry_writer.SERVER)
        timeout = server_context.timeout
        entries.write_client_header(
            method.path,
            server_context.authority,
            server_context.custom_metadata,
            None if timeout is None else timeout.total_seconds(),
            entry_writer.make_address(server_context.peer.address),
        )
        call = stream.message_tracer = _LoggedServerCall(entries, server_context, stream)
        return call

    def trace_method(self, target: str, method: Method) -> tracer.StartCall | None:
        limits = self._filter.method_limits(method.service, method.name)
        if limits is None:
            return None

        def start_call() -> tracer.ClientCallTracer:
            side = entry_writer.CLIENT
            entries = entry_writer.CallEntryWriter(self._write_entry, limits, side)
            return _LoggedClientCall(entries, method)

        return start_call


@attrs.define(eq=False)
class _LoggedServerCall(tracer.ServerCallTracer):
    """Writes the entries of a served call."""

    _entries: entry_writer.CallEntryWriter
    _request: ServerContext
    _stream: Stream
    _headers_written: bool = False

    def message_received(self, message: bytes, wire_size: int) -> None:
        self._entries.write_client_message(message)

    def half_close_received(self) -> None:
        self._entries.write_half_close()

    def message_sent(self, message: bytes, wire_size: int) -> None:
        self._write_headers()
        self._entries.write_server_message(message)

    def _write_headers(self) -> None:
        if not self._headers_written:
            self._headers_written = True
            self._entries.write_server_header(self._request.initial_metadata)

    def call_ended(self, status: CallStatus) -> None:
        code, message = status
        if code and self._stream.reset_by_peer:
            self._entries.write_cancel()
            return
        if self._request.initial_metadata:
            # Without a message they were sent along with the status.
            self._write_headers()
        details = self._request.status_details if code else b""
        self._entries.write_trailer(code, message, self._request.trailing_metadata, details)


@attrs.define(eq=False)
class _LoggedClientCall(tracer.ClientCallTracer):
    """Holds what the attempts of a call have in common, and writes how it ended.

    The log has what the caller sees of the attempts.
    """

    entries: entry_writer.CallEntryWriter
    method: Method
    is_started: bool = False
    half_closed: bool = False
    sent_count: int = 0
    """Number of request messages written; further attempts send the same messages."""
    deadline: float = math.inf
    committed_attempt: _LoggedAttempt | None = None
    """The attempt whose response the caller receives; None until that is known."""
    ended_attempts: list[_LoggedAttempt] = attrs.field(factory=list)

    def start_attempt(
        self, kind: tracer.AttemptKind, previous_attempts: int
    ) -> tracer.AttemptTracer:
        return _LoggedAttempt(self)

    def commit(self, attempt: _LoggedAttempt, headers: ResponseHeaders) -> None:
        """Write the headers of a response that the caller receives, unless there is another one."""
        if self.committed_attempt is None:
            self.committed_attempt = attempt
            self.entries.write_server_header(headers.metadata, attempt.peer_address)

    def call_ended(self, status: CallStatus | None) -> None:
        attempt = self._deciding_attempt(status)
        if status is None:
            # It was cancelled: by its caller alone, unless there is a status nevertheless.
            own = None if attempt is None or not attempt.has_trailers else attempt.status
            if own is not None and (attempt is self.committed_attempt or not own[0]):
                status = own
            elif trio.current_time() >= self.deadline:
                status = DEADLINE_EXCEEDED, "the caller's deadline passed"
            else:
                self.entries.write_cancel()
                return
        self._write_trailer(attempt, status)

    def _deciding_attempt(self, status: CallStatus | None) -> _LoggedAttempt | None:
        """Return the attempt that determined the call's status."""
        if self.committed_attempt is not None:
            return self.committed_attempt
        for attempt in reversed(self.ended_attempts):
            if status is None or (attempt.status is not None and attempt.status[0] == status[0]):
                return attempt
        return None

    def _write_trailer(self, attempt: _LoggedAttempt | None, status: CallStatus) -> None:
        stream = None if attempt is None else attempt.stream
        if attempt is None or stream is None:
            self.entries.write_trailer(*status)
            return
        headers, trailers = stream.headers, stream.trailers
        if headers is not None and headers.trailers is None and headers.http_status == 200:
            self.commit(attempt, headers)
        answered = headers is not None or trailers is not None
        peer = attempt.peer_address if answered and self.committed_attempt is None else None
        if trailers is None:
            self.entries.write_trailer(*status, peer=peer)
        else:
            self.entries.write_trailer(*status, trailers.metadata, trailers.details, peer)


@attrs.define(eq=False)
class _LoggedAttempt(tracer.AttemptTracer):
    """Writes the entries of one attempt, except for those that another one has written."""

    wants_pick_events = True

    _call: _LoggedClientCall
    _address: str = ""
    _sent_count: int = 0
    stream: Stream | None = None
    status: CallStatus | None = None
    """Status of the attempt; None until it has ended."""

    @property
    def peer_address(self) -> object:
        """The server's Address; that of a Unix socket has its path."""
        host = "" if self.stream is None else self.stream.peer.address
        return entry_writer.make_address(host, self._address.removeprefix("unix:"))

    @property
    def has_trailers(self) -> bool:
        return self.stream is not None and self.stream.trailers is not None

    def before_pick(self, authority: str, fields: Sequence[HeaderField], deadline: float) -> None:
        call = self._call
        if not call.is_started:
            call.is_started = True
            call.deadline = deadline
            timeout = None if deadline == math.inf else deadline - trio.current_time()
            metadata = parse_metadata(fields)[0]
            call.entries.write_client_header(call.method.path, authority, metadata, timeout)

    def endpoint_picked(self, address: str, stream: Stream, was_delayed: bool) -> None:
        self._address, self.stream = address, stream
        stream.message_tracer = self

    def message_sent(self, message: bytes, wire_size: int) -> None:
        self._sent_count += 1
        if self._sent_count > self._call.sent_count:
            self._call.sent_count = self._sent_count
            self._call.entries.write_client_message(message)

    def half_closed(self) -> None:
        if not self._call.half_closed:
            self._call.half_closed = True
            self._call.entries.write_half_close()

    def headers_received(self, headers: ResponseHeaders) -> None:
        # A unary call may have concurrent attempts; the first with headers need not be committed.
        if self._call.method.client_streams or self._call.method.server_streams:
            self._call.commit(self, headers)

    def message_received(self, message: bytes, wire_size: int) -> None:
        if self.stream is not None and self.stream.headers is not None:
            self._call.commit(self, self.stream.headers)
        if self._call.committed_attempt is self:
            self._call.entries.write_server_message(message)

    def attempt_ended(self, status: CallStatus, stream: Stream | None) -> None:
        self.status = status
        self._call.ended_attempts.append(self)
