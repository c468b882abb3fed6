"""Counts the connections to a listening socket, by sock_diag(7).

It takes time in proportion to the number of connections on the machine, so it is for a worker
thread.

Source: linux/unix_diag.h, linux/inet_diag.h
"""

from __future__ import annotations

import os
import socket
import struct

from meshtrio.supervisor.process.proc import sock_diag
from meshtrio.util.address import Address

_ESTABLISHED = 1 << 1
_SHOW_VFS, _SHOW_PEER = 0x2, 0x4
_VFS, _PEER = 1, 2
_UNIX_REQUEST = struct.Struct("=BBHIII8x")
_UNIX_MESSAGE_SIZE = 16
_PAIR = struct.Struct("=II")
_NUMBER = struct.Struct("=I")
_INET_REQUEST = struct.Struct("=BBBBI48x")
_INET_PORT = struct.Struct(">4xH")


def count_connections(address: str) -> int | None:
    """Count the connections of clients to the server at an address; None if it is not known.

    Those that the client has closed are not counted, whether or not the server has noticed.
    """
    try:
        parsed = Address.parse(address)
        return _count_unix(parsed.path) if parsed.path else _count_tcp(parsed.port)
    except (OSError, ValueError, struct.error):
        return None


def _count_unix(path: str) -> int:
    # An accepted socket has the file of the socket that it was accepted from.
    inode = os.stat(path).st_ino & 0xFFFFFFFF
    request = _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, _ESTABLISHED, 0, _SHOW_VFS | _SHOW_PEER)
    count = 0
    for message in sock_diag.dump(request):
        found = sock_diag.parse_attributes(message[_UNIX_MESSAGE_SIZE:])
        file, peer = found.get(_VFS), found.get(_PEER)
        is_own = file is not None and _PAIR.unpack_from(file)[0] == inode
        # A socket that is closed has the inode 0.
        count += is_own and peer is not None and _NUMBER.unpack_from(peer)[0] != 0
    return count


def _count_tcp(port: int) -> int:
    count = 0
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _ESTABLISHED)
        for message in sock_diag.dump(request):
            count += _INET_PORT.unpack_from(message)[0] == port
    return count
