"""Entries of a binary log: GrpcLogEntry of gRFC A16."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Any

import attrs

from meshtrio.config.binary_log_filter import MethodLogLimits
from meshtrio.messages import binarylog
from meshtrio.util.address import Address
from meshtrio.util.text import replace_surrogates

WriteEntry = Callable[[bytes], None]
"""Accepts a serialized entry; neither raises nor blocks."""
MetadataItems = Iterable[tuple[str, str | bytes]]

_Entry = binarylog.GrpcLogEntry
CLIENT, SERVER = _Entry.LOGGER_CLIENT, _Entry.LOGGER_SERVER
_MAX_DURATION = 315_576_000_000
"""Maximum of a protobuf Duration, in seconds."""
_TRACE_KEY = "grpc-trace-bin"
_RESERVED_KEYS = frozenset(
    {"lb-token", "content-encoding", "content-type", "content-length", "user-agent", "te", "host"}
)


@attrs.define(eq=False)
class CallEntryWriter:
    """Writes the numbered entries of one call."""

    _write_entry: WriteEntry
    _limits: MethodLogLimits
    """How many bytes are written of metadata and messages."""
    _logger: Any
    """The side of the call that writes: `CLIENT` or `SERVER`."""
    _call_id: int = attrs.field(factory=itertools.count(1).__next__)
    _sequence_id: int = 0

    def write_client_header(
        self,
        path: str,
        authority: str,
        metadata: MetadataItems,
        timeout: float | None,
        peer: Any | None = None,
    ) -> None:
        """Write the start of a call; `timeout` is in seconds, None without a deadline."""
        kept, truncated = self._truncate_metadata(metadata)
        header = binarylog.ClientHeader(metadata=kept, method_name=path, authority=authority)
        if timeout is not None:
            header.timeout.FromNanoseconds(int(min(max(timeout, 0.0), _MAX_DURATION) * 1e9))
        self._write(_Entry.EVENT_TYPE_CLIENT_HEADER, truncated, client_header=header, peer=peer)

    def write_server_header(self, metadata: MetadataItems, peer: Any | None = None) -> None:
        kept, truncated = self._truncate_metadata(metadata)
        header = binarylog.ServerHeader(metadata=kept)
        self._write(_Entry.EVENT_TYPE_SERVER_HEADER, truncated, server_header=header, peer=peer)

    def write_client_message(self, message: bytes) -> None:
        self._write_message(_Entry.EVENT_TYPE_CLIENT_MESSAGE, message)

    def write_server_message(self, message: bytes) -> None:
        self._write_message(_Entry.EVENT_TYPE_SERVER_MESSAGE, message)

    def write_half_close(self) -> None:
        """Write that the client sends no further message."""
        self._write(_Entry.EVENT_TYPE_CLIENT_HALF_CLOSE)

    def write_trailer(
        self,
        code: int,
        message: str,
        metadata: MetadataItems = (),
        details: bytes = b"",
        peer: Any | None = None,
    ) -> None:
        """Write the status that the call ended with."""
        kept, truncated = self._truncate_metadata(metadata)
        trailer = binarylog.Trailer(
            metadata=kept,
            status_code=code,
            status_message=message.encode(errors="replace").decode(),
            status_details=details,
        )
        self._write(_Entry.EVENT_TYPE_SERVER_TRAILER, truncated, trailer=trailer, peer=peer)

    def write_cancel(self) -> None:
        """Write that the client cancelled the call."""
        self._write(_Entry.EVENT_TYPE_CANCEL)

    def _write_message(self, kind: Any, message: bytes) -> None:
        limit = self._limits.max_message_bytes
        data = message if limit is None else message[:limit]
        kept = binarylog.Message(length=len(message), data=data)
        self._write(kind, len(data) < len(message), message=kept)

    def _truncate_metadata(self, metadata: MetadataItems) -> tuple[Any, bool]:
        """Return the metadata to write, and whether it was truncated.

        Keys that gRPC itself adds are omitted; `grpc-trace-bin` is written whatever the limit.
        """
        remaining = self._limits.max_header_bytes
        found = binarylog.Metadata()
        truncated = False
        for key, value in metadata:
            if key in _RESERVED_KEYS or (key.startswith("grpc-") and key != _TRACE_KEY):
                continue
            data = value if isinstance(value, bytes) else value.encode("latin-1", "replace")
            if remaining is not None and key != _TRACE_KEY:
                size = len(key) + len(data)
                truncated = truncated or size > remaining
                if truncated:
                    continue
                remaining -= size
            found.entry.add(key=key, value=data)
        return found, truncated

    def _write(self, kind: Any, truncated: bool = False, **payload: Any) -> None:
        self._sequence_id += 1
        entry = _Entry(
            call_id=self._call_id,
            sequence_id_within_call=self._sequence_id,
            type=kind,
            logger=self._logger,
            payload_truncated=truncated,
            **payload,
        )
        entry.timestamp.FromNanoseconds(time.time_ns())
        self._write_entry(entry.SerializeToString())


def make_address(peer: str, socket_path: str = "") -> Any:
    """Return the Address of "host:port", or that of a Unix socket if `peer` is empty."""
    if not peer:
        path = replace_surrogates(socket_path)
        return binarylog.Address(type=binarylog.Address.TYPE_UNIX, address=path)
    try:
        address = Address.parse(f"tcp:{peer}")
        # The zone of a link-local address is not part of it (RFC 4007 §11).
        ip = ip_address(address.host.partition("%")[0])
    except ValueError:
        return binarylog.Address(address=peer)
    kind = binarylog.Address.TYPE_IPV4 if ip.version == 4 else binarylog.Address.TYPE_IPV6
    return binarylog.Address(type=kind, address=str(ip), ip_port=address.port)
