"""Binary logging of calls (gRFC A16): what went over the wire, call by call, for debugging.

    async with binary_logging("*{h;m:1024}", Path("/tmp/calls")):
        async with mesh.connect("plugin.echo") as channel: ...

Files hold all metadata and messages that the filter lets through, secrets too. What is written of
a client's call is what its caller gave and got: of attempts that came to nothing there is no word.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from meshtrio.config.binary_log_filter import BinaryLogFilter, MethodLogLimits
from meshtrio.errors import UsageError
from meshtrio.grpc.status import CallStatus
from meshtrio.rpc.composite_tracer import use_tracers
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.method import Method
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.tracer import (
    AttemptKind,
    AttemptTracer,
    ClientCallTracer,
    ClientTracer,
    MethodTracer,
    ServerCallTracer,
    ServerTracer,
)
from meshtrio.telemetry.binary_log.client_call import LoggedClientCall
from meshtrio.telemetry.binary_log.entry_writer import (
    CallEntryWriter,
    Logger,
    WriteEntry,
    make_address,
)
from meshtrio.telemetry.binary_log.rotating_writer import (
    DEFAULT_MAX_FILE_SIZE,
    DEFAULT_MAX_FILES,
    RotatingWriter,
)


@asynccontextmanager
async def open_binary_log(
    filter_text: str,
    directory: Path,
    *,
    name: str = "app",
    max_file_size: int = DEFAULT_MAX_FILE_SIZE,
    max_files: int = DEFAULT_MAX_FILES,
) -> AsyncIterator[RotatingWriter]:
    """Log the calls of all channels and servers that are made in the block, as a filter says.

    They are written to `folder/name.pid.binlog`, of at most `size` bytes, and `files` of them are
    kept. Raises UsageError for a filter that is none. A folder that cannot be written to is told in
    the log.
    """
    try:
        wanted = BinaryLogFilter.parse(filter_text)
    except ValueError as exc:
        raise UsageError(f"the filter of the binary log: {exc}") from None
    written = RotatingWriter(directory, name, max_file_size=max_file_size, max_files=max_files)
    log = BinaryLog(wanted, written.put)
    try:
        with use_tracers(client=log, server=log):
            yield written
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(written.close)


class BinaryLog(ServerTracer, ClientTracer):
    """Writes entries of the calls that a filter lets through."""

    def __init__(self, log_filter: BinaryLogFilter, write_entry: WriteEntry) -> None:
        """`put` is given each entry, serialized."""
        self._filter = log_filter
        self._write_entry = write_entry

    def start_call(
        self, server_context: ServerContext, method: Method, stream: Stream
    ) -> ServerCallTracer:
        amount = self._filter.method_limits(method.service, method.name)
        if amount is None:
            return _IGNORED_SERVER_CALL
        entries = CallEntryWriter(self._write_entry, amount, Logger.SERVER)
        timeout = server_context.timeout
        entries.write_client_header(
            method.path,
            server_context.authority,
            server_context.custom_metadata,
            None if timeout is None else timeout.total_seconds(),
            make_address(server_context.peer.address),
        )
        return _LoggedServerCall(entries, server_context, stream)

    def call_rejected(self, headers: object, status: CallStatus) -> None:
        """Nothing of it was for an application."""

    def trace_method(self, target: str, method: Method) -> MethodTracer:
        amount = self._filter.method_limits(method.service, method.name)
        return (
            _IGNORED_METHOD if amount is None else _LoggedMethod(self._write_entry, amount, method)
        )


class _IgnoredMethod(MethodTracer, ClientCallTracer, AttemptTracer):
    """Of a method that the filter leaves out."""

    def start_call(self) -> ClientCallTracer:
        return self

    def start_attempt(self, kind: AttemptKind, previous_attempts: int) -> AttemptTracer:
        return self


_IGNORED_METHOD = _IgnoredMethod()
_IGNORED_SERVER_CALL = ServerCallTracer()


class _LoggedServerCall(ServerCallTracer):
    """A call on a server."""

    __slots__ = ("_entries", "_headers_written", "_request", "_stream")

    def __init__(self, entries: CallEntryWriter, request: ServerContext, stream: Stream) -> None:
        self._entries = entries
        self._request = request
        self._stream = stream
        self._headers_written = False
        stream.message_tracer = self

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
            # It has gone out with the status, where no message did.
            self._write_headers()
        details = self._request.status_details if code else b""
        self._entries.write_trailer(code, message, self._request.trailing_metadata, details)


class _LoggedMethod(MethodTracer):
    def __init__(self, write_entry: WriteEntry, limits: MethodLogLimits, method: Method) -> None:
        self._write_entry = write_entry
        self._limits = limits
        self._method = method

    def start_call(self) -> ClientCallTracer:
        return LoggedClientCall(
            CallEntryWriter(self._write_entry, self._limits, Logger.CLIENT), self._method
        )
