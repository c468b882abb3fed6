"""Queries of the kernel's sockets by netlink: sock_diag(7).

They see the sockets of this process's network namespace.

Source: linux/sock_diag.h
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_ERROR, _DONE = 2, 3
_REQUEST, _REQUEST_DUMP = 0x1, 0x301
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ERROR_CODE = struct.Struct("=i")
_BUFFER_SIZE = 64 * 1024
_TIMEOUT = 1.0


def dump(request: bytes) -> Iterator[bytes]:
    """Send a dump request, and yield the payload of each message. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as sock:
        _send(sock, request, _REQUEST_DUMP)
        while True:
            for kind, content in _split(sock.recv(_BUFFER_SIZE), _HEADER):
                if kind in (_ERROR, _DONE):
                    return
                yield content


def query(request: bytes) -> bytes:
    """Send a request for one socket, and return the payload of the reply.

    The kernel replies before the request returns, so that this does not wait.

    Raises:
        OSError: There is no such socket (ENOENT), or the kernel does not support the request.
    """
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as sock:
        _send(sock, request, _REQUEST)
        for kind, content in _split(sock.recv(_BUFFER_SIZE), _HEADER):
            if kind != _ERROR:
                return content
            number = -_ERROR_CODE.unpack_from(content)[0]
            raise OSError(number, os.strerror(number))
    raise OSError("the kernel's reply is empty")


def parse_attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes of a message by their kinds."""
    return dict(_split(data, _ATTRIBUTE))


def _send(sock: socket.socket, request: bytes, flags: int) -> None:
    sock.settimeout(_TIMEOUT)
    size = _HEADER.size + len(request)
    sock.sendto(_HEADER.pack(size, _SOCK_DIAG_BY_FAMILY, flags, 1, 0) + request, (0, 0))


def _split(data: bytes, header: struct.Struct) -> Iterator[tuple[int, bytes]]:
    """Yield the kind and the content of each message or attribute, whose length is aligned to 4."""
    while len(data) >= header.size:
        length, kind, *_ = header.unpack_from(data)
        if length < header.size:
            return
        yield kind, data[header.size : length]
        data = data[(length + 3) & ~3 :]
