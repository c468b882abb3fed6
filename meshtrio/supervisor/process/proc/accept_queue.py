"""Reads the accept queue of a listening socket by sock_diag(7).

The kernel lists only the sockets of this process's network namespace.

Source: linux/unix_diag.h, linux/inet_diag.h
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

import attrs

from meshtrio.util.address import Address

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_ERROR, _DONE = 2, 3
_REQUEST_DUMP = 0x301
_LISTEN = 1 << 10
_SHOW_VFS_AND_QUEUE = 0x2 | 0x10
_VFS, _QUEUE = 1, 4
_HEADER = struct.Struct("=IHHII")
_UNIX_REQUEST = struct.Struct("=BBHIII8x")
_UNIX_MESSAGE_SIZE = 16
_ATTRIBUTE = struct.Struct("=HH")
_PAIR = struct.Struct("=II")
_INET_REQUEST = struct.Struct("=BBBBI48x")
_INET_PORT = struct.Struct(">4xH")
_INET_QUEUE_AT = 56
_BUFFER_SIZE = 64 * 1024
_TIMEOUT = 1.0


@attrs.frozen
class AcceptQueue:
    """The connections that a server has not accepted yet."""

    waiting: int
    """Number of connections that wait to be accepted."""
    backlog: int
    """Maximum number of connections that can wait (listen(2))."""

    def __str__(self) -> str:
        return f"{self.waiting} connections wait to be accepted (backlog: {self.backlog})"


def read_accept_queue(address: str) -> AcceptQueue | None:
    """Read the queue of the socket that listens on an address; None if none is found.

    Takes time in proportion to the number of listening sockets, so it is for a worker thread.
    """
    try:
        parsed = Address.parse(address)
        return _find_by_path(parsed.path) if parsed.path else _find_by_port(parsed.port)
    except (OSError, ValueError, struct.error):
        return None


def _find_by_path(path: str) -> AcceptQueue | None:
    inode = os.stat(path).st_ino & 0xFFFFFFFF
    request = _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, _LISTEN, 0, _SHOW_VFS_AND_QUEUE)
    for message in _netlink_dump(request):
        found = dict(_split(message[_UNIX_MESSAGE_SIZE:], _ATTRIBUTE))
        if _VFS in found and _PAIR.unpack_from(found[_VFS])[0] == inode:
            return AcceptQueue(*_PAIR.unpack_from(found[_QUEUE]))
    return None


def _find_by_port(port: int) -> AcceptQueue | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _LISTEN)
        for message in _netlink_dump(request):
            if _INET_PORT.unpack_from(message)[0] == port:
                return AcceptQueue(*_PAIR.unpack_from(message, _INET_QUEUE_AT))
    return None


def _netlink_dump(request: bytes) -> Iterator[bytes]:
    """Send a dump request, and yield the payload of each message. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as sock:
        sock.settimeout(_TIMEOUT)
        size = _HEADER.size + len(request)
        sock.sendto(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, _REQUEST_DUMP, 1, 0) + request, (0, 0))
        while True:
            for kind, content in _split(sock.recv(_BUFFER_SIZE), _HEADER):
                if kind in (_ERROR, _DONE):
                    return
                yield content


def _split(data: bytes, header: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the content of each message or attribute, whose length is aligned to 4."""
    while len(data) >= header.size:
        length, kind, *_ = header.unpack_from(data)
        if length < header.size:
            return
        yield kind, data[header.size : length]
        data = data[(length + 3) & ~3 :]
