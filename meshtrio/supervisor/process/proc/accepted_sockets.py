"""Finds the socket at the other end of a connection to a server of this machine, by sock_diag(7).

A connection exists before a process accepts it: it waits in the backlog of the listening socket.
The server's end gets an inode when it is accepted, by which the process is found that holds it.

Source: linux/unix_diag.h, linux/inet_diag.h
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from ipaddress import ip_address

from meshtrio.supervisor.process.proc import sock_diag

_UNIX_REQUEST = struct.Struct("=BBHIIIII")
_UNIX_MESSAGE_SIZE = 16
_SHOW_PEER = 0x4
_PEER = 2
_INODE = struct.Struct("=I")
_INET_REQUEST = struct.Struct("=BBBBI")
_INET_ID = struct.Struct(">HH16s16s4x8s")
_INET_STATE_AT, _INET_INODE_AT = 1, 68
_LISTEN = 10
_NO_COOKIE = 0xFFFFFFFF


def find_accepted_inode(client: socket.socket) -> int:
    """Return the inode of the socket that was accepted for a connection; 0 if none was yet.

    The server has to be on this machine, and a TCP server in this network namespace.

    Raises:
        OSError: The connection is closed, or the kernel does not tell.
    """
    try:
        return _find_unix(client) if client.family == socket.AF_UNIX else _find_tcp(client)
    except struct.error:
        raise OSError("the reply of sock_diag(7) is too short") from None


def _find_unix(client: socket.socket) -> int:
    inode = os.fstat(client.fileno()).st_ino & 0xFFFFFFFF
    cookie = (_NO_COOKIE, _NO_COOKIE)
    request = _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, 0, inode, _SHOW_PEER, *cookie)
    message = sock_diag.query(request)
    peer = sock_diag.parse_attributes(message[_UNIX_MESSAGE_SIZE:]).get(_PEER)
    if peer is None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    found: int = _INODE.unpack_from(peer)[0]
    return found


def _find_tcp(client: socket.socket) -> int:
    server, own = client.getpeername(), client.getsockname()
    request = _INET_REQUEST.pack(client.family, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF)
    addresses = (_pack_address(server[0]), _pack_address(own[0]))
    request += _INET_ID.pack(server[1], own[1], *addresses, b"\xff" * 8)
    message = sock_diag.query(request)
    if message[_INET_STATE_AT] == _LISTEN:  # It was found instead of the connection.
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    found: int = _INODE.unpack_from(message, _INET_INODE_AT)[0]
    return found


def _pack_address(text: str) -> bytes:
    return ip_address(text.partition("%")[0]).packed.ljust(16, b"\0")
