"""Reading binary logs, as grpc-go writes them and as we do."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from meshtrio.messages import binarylog

Entry = binarylog.GrpcLogEntry
UNARY_ENTRY_TYPES = (
    "CLIENT_HEADER",
    "CLIENT_MESSAGE",
    "CLIENT_HALF_CLOSE",
    "SERVER_HEADER",
    "SERVER_MESSAGE",
    "SERVER_TRAILER",
)
"""Of a unary call that succeeds, at the client as at the server."""


def read_entries(path: Path) -> list[Any]:
    """Return all entries of a file, which has to end with a whole one."""
    data, found = path.read_bytes(), []
    while data:
        (size,) = struct.unpack(">I", data[:4])
        assert len(data) >= 4 + size
        found.append(Entry.FromString(data[4 : 4 + size]))
        data = data[4 + size :]
    return found


def entry_type(entry: Any) -> str:
    """Return the type of an entry: "CLIENT_HEADER" and the like."""
    name: str = Entry.EventType.Name(entry.type)
    return name.removeprefix("EVENT_TYPE_")


def entry_types(entries: Iterable[Any]) -> list[str]:
    return [entry_type(entry) for entry in entries]


def entry_metadata(entry: Any) -> list[tuple[str, bytes]]:
    """Return the metadata of an entry of headers or trailers."""
    payload = getattr(entry, entry.WhichOneof("payload"))
    return [(pair.key, pair.value) for pair in payload.metadata.entry]


def split_by_logger(entries: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Return the entries of clients and those of servers, sorted by call."""
    ordered = sorted(entries, key=lambda e: (e.call_id, e.sequence_id_within_call))
    calls = {e.call_id for e in ordered}
    for call in calls:
        numbers = [e.sequence_id_within_call for e in ordered if e.call_id == call]
        assert numbers == list(range(1, len(numbers) + 1))
    return (
        [e for e in ordered if e.logger == Entry.LOGGER_CLIENT],
        [e for e in ordered if e.logger == Entry.LOGGER_SERVER],
    )
