"""Binary logging of calls (gRFC A16): metadata and messages in files, for debugging.

    async with open_binary_log("*{h;m:1024}", Path("/tmp/calls")):
        async with mesh.connect("plugin.echo") as channel: ...

The files contain all metadata and messages that the filter selects, secrets included.

Theory of operation
-------------------

`BinaryLog` is a tracer of servers and channels. For each call that the filter selects it makes a
`CallEntryWriter`, which numbers the call's entries, truncates them to the filter's limits and
serializes them as `GrpcLogEntry`. A served call writes its entries as they happen. A client's call
(`client_call`) has one or more attempts, of which the log shows what the caller saw: the request
once, whichever attempt sends it first, and the response of the attempt that the caller received. A
failed attempt that was retried leaves no entry.

Entries go to `RotatingWriter.put`, which neither blocks nor raises; a thread writes them. Entries
that do not fit its queue, or that cannot be written, are dropped, and counted by reason. At the end
of `open_binary_log` the queue is flushed, within two seconds.

    client_call       entries of a client's call, from the events of its attempts
    entry_writer      entries of one call, serialized
    rotating_writer   the files
    reader            prints files as JSON: python -m meshtrio.telemetry.binary_log.reader
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from meshtrio.config.binary_log_filter import BinaryLogFilter, MethodLogLimits
from meshtrio.errors import UsageError
from meshtrio.grpc.status import CallStatus
from meshtrio.rpc import tracer
from meshtrio.rpc.composite_tracer import use_tracers
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.method import Method
from meshtrio.rpc.stream import Stream
from meshtrio.telemetry.binary_log import entry_writer
from meshtrio.telemetry.binary_log.client_call import LoggedClientCall
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
    """Log the calls of all channels and servers that are created in the block.

    Args:
        filter_text: Selects calls, and how much of them is written, as gRFC A16 defines it:
            `"*"`, `"pkg.Service/*{h:256;m:1024}"`.
        directory: Folder of the files, which is created with mode 0700. If it cannot be written
            to, that is logged and entries are dropped.
        name: First part of the files' names: `name.pid.binlog`.
        max_file_size: Maximum size of a file, in bytes.
        max_files: Number of files to keep, the current one included.

    Yields:
        The writer, whose `collect` returns the counters of written and dropped entries.

    Raises:
        UsageError: The filter is malformed.

    Cancellation: At the end of the block shielded for at most 2 s, to write what is queued.

    Source: gRFC A16.
    """
    try:
        log_filter = BinaryLogFilter.parse(filter_text)
    except ValueError as exc:
        raise UsageError(f"the filter of the binary log: {exc}") from None
    writer = RotatingWriter(directory, name, max_file_size=max_file_size, max_files=max_files)
    log = BinaryLog(log_filter, writer.put)
    try:
        with use_tracers(client=log, server=log):
            yield writer
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(writer.close)


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

    def trace_method(self, target: str, method: Method) -> tracer.MethodTracer:
        limits = self._filter.method_limits(method.service, method.name)
        if limits is None:
            return tracer.MethodTracer()
        return _LoggedMethod(self._write_entry, limits, method)


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


@attrs.frozen
class _LoggedMethod(tracer.MethodTracer):
    """Traces calls of a method that the filter selects."""

    _write_entry: entry_writer.WriteEntry
    _limits: MethodLogLimits
    _method: Method

    def start_call(self) -> tracer.ClientCallTracer:
        entries = entry_writer.CallEntryWriter(self._write_entry, self._limits, entry_writer.CLIENT)
        return LoggedClientCall(entries, self._method)
