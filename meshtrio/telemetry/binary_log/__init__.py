"""Binary logging of calls (gRFC A16): metadata and messages in files, for debugging.

    async with open_binary_log("*{h;m:1024}", Path("/tmp/calls")):
        async with mesh.connect("plugin.echo") as channel: ...

The files contain all metadata and messages that the filter selects, secrets included.

Theory of operation
-------------------

`BinaryLog` is a tracer of servers and channels. For each call that the filter selects it makes a
`CallEntryWriter`, which numbers the call's entries, truncates them to the filter's limits and
serializes them as `GrpcLogEntry`. A served call writes its entries as they happen. A client's call
has one or more attempts, of which the log shows what the caller saw: the request
once, whichever attempt sends it first, and the response of the attempt that the caller received. A
failed attempt that was retried leaves no entry.

Entries go to `RotatingWriter.put`, which neither blocks nor raises; a thread writes them. Entries
that do not fit its queue, or that cannot be written, are dropped, and counted by reason. At the end
of `open_binary_log` the queue is flushed, within two seconds.

    logged_calls      the tracer, and what a served call and a client's call write
    entry_writer      entries of one call, serialized
    rotating_writer   the files
    reader            prints files as JSON: python -m meshtrio.telemetry.binary_log.reader
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from meshtrio.config.binary_log_filter import BinaryLogFilter
from meshtrio.errors import UsageError
from meshtrio.rpc.composite_tracer import use_tracers
from meshtrio.telemetry.binary_log.logged_calls import BinaryLog
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
