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

from meshtrio.config.log_filter import Amount, LogFilter
from meshtrio.errors import UsageError
from meshtrio.rpc.observe import (
    AttemptKind,
    AttemptWatch,
    CallWatch,
    ClientObserver,
    MethodObserver,
    Outcome,
    ServerObserver,
    ServerWatch,
)
from meshtrio.rpc.observers import observing
from meshtrio.rpc.seam import Method, Request
from meshtrio.rpc.stream import Stream
from meshtrio.telemetry.binary_log.calls import LoggedCall
from meshtrio.telemetry.binary_log.entries import CallEntries, Logger, Put, address_of
from meshtrio.telemetry.binary_log.files import FILES, SIZE, LogFiles


@asynccontextmanager
async def binary_logging(
    text: str, folder: Path, *, name: str = "app", size: int = SIZE, files: int = FILES
) -> AsyncIterator[LogFiles]:
    """Log the calls of all channels and servers that are made in the block, as a filter says.

    They are written to `folder/name.pid.binlog`, of at most `size` bytes, and `files` of them are
    kept. Raises UsageError for a filter that is none. A folder that cannot be written to is told in
    the log.
    """
    try:
        wanted = LogFilter.parse(text)
    except ValueError as exc:
        raise UsageError(f"the filter of the binary log: {exc}") from None
    written = LogFiles(folder, name, size=size, files=files)
    log = BinaryLog(wanted, written.put)
    try:
        with observing(client=log, server=log):
            yield written
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(written.finish)


class BinaryLog(ServerObserver, ClientObserver):
    """Writes entries of the calls that a filter lets through."""

    def __init__(self, wanted: LogFilter, put: Put) -> None:
        """`put` is given each entry, serialized."""
        self._wanted = wanted
        self._put = put

    def begin(self, request: Request, method: Method, stream: Stream) -> ServerWatch:
        amount = self._wanted.of(method.service, method.name)
        if amount is None:
            return _UNWRITTEN_SERVED
        entries = CallEntries(self._put, amount, Logger.SERVER)
        timeout = request.timeout
        entries.client_header(
            method.path,
            request.authority,
            request.custom_metadata,
            None if timeout is None else timeout.total_seconds(),
            address_of(request.peer.address),
        )
        return _Served(entries, request, stream)

    def refused(self, head: object, outcome: Outcome) -> None:
        """Nothing of it was for an application."""

    def method(self, target: str, method: Method) -> MethodObserver:
        amount = self._wanted.of(method.service, method.name)
        return _UNWRITTEN if amount is None else _WrittenMethod(self._put, amount, method)


class _Unwritten(MethodObserver, CallWatch, AttemptWatch):
    """Of a method that the filter leaves out."""

    def begin(self) -> CallWatch:
        return self

    def attempt(self, kind: AttemptKind, previous: int) -> AttemptWatch:
        return self


_UNWRITTEN = _Unwritten()
_UNWRITTEN_SERVED = ServerWatch()


class _Served(ServerWatch):
    """A call on a server."""

    __slots__ = ("_entries", "_has_head", "_request", "_stream")

    def __init__(self, entries: CallEntries, request: Request, stream: Stream) -> None:
        self._entries = entries
        self._request = request
        self._stream = stream
        self._has_head = False
        stream.watch = self

    def received(self, message: bytes, wire_size: int) -> None:
        self._entries.client_message(message)

    def received_all(self) -> None:
        self._entries.half_close()

    def sent(self, message: bytes, wire_size: int) -> None:
        self._write_head()
        self._entries.server_message(message)

    def _write_head(self) -> None:
        if not self._has_head:
            self._has_head = True
            self._entries.server_header(self._request.initial_metadata)

    def ended(self, outcome: Outcome) -> None:
        code, message = outcome
        if code and self._stream.lost:
            self._entries.cancel()
            return
        if self._request.initial_metadata:
            # It has gone out with the status, where no message did.
            self._write_head()
        details = self._request.status_details if code else b""
        self._entries.trailer(code, message, self._request.trailing_metadata, details)


class _WrittenMethod(MethodObserver):
    def __init__(self, put: Put, amount: Amount, method: Method) -> None:
        self._put = put
        self._amount = amount
        self._method = method

    def begin(self) -> CallWatch:
        return LoggedCall(CallEntries(self._put, self._amount, Logger.CLIENT), self._method)
