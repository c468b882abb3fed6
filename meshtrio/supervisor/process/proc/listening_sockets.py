"""Listening sockets: accept queues by sock_diag(7), and TCP listeners from /proc/net (proc(5)).

Both list only the sockets of one network namespace: for accept queues that of this process. All of
it takes time in proportion to the number of listening sockets, so it is for a worker thread.

Source: linux/unix_diag.h, linux/inet_diag.h
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice

import attrs

from meshtrio.supervisor.process.proc import sock_diag
from meshtrio.util.address import Address

_LISTEN = 1 << 10
_SHOW_VFS_AND_QUEUE = 0x2 | 0x10
_VFS, _QUEUE = 1, 4
_UNIX_REQUEST = struct.Struct("=BBHIII8x")
_UNIX_MESSAGE_SIZE = 16
_PAIR = struct.Struct("=II")
_INET_REQUEST = struct.Struct("=BBBBI48x")
_INET_PORT = struct.Struct(">4xH")
_INET_QUEUE_AT = 56
_PROC_LISTEN = b"0A"
_TABLES = ("tcp", "tcp6")
_WILDCARDS = {4: IPv4Address("0.0.0.0"), 6: IPv6Address("::")}  # noqa: S104 - nothing is bound here


# -- accept queues --


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
    """Read the queue of the socket that listens on an address; None if none is found."""
    try:
        parsed = Address.parse(address)
        return _find_by_path(parsed.path) if parsed.path else _find_by_port(parsed.port)
    except (OSError, ValueError, struct.error):
        return None


def _find_by_path(path: str) -> AcceptQueue | None:
    inode = os.stat(path).st_ino & 0xFFFFFFFF
    request = _UNIX_REQUEST.pack(socket.AF_UNIX, 0, 0, _LISTEN, 0, _SHOW_VFS_AND_QUEUE)
    for message in sock_diag.dump(request):
        found = sock_diag.parse_attributes(message[_UNIX_MESSAGE_SIZE:])
        if _VFS in found and _PAIR.unpack_from(found[_VFS])[0] == inode:
            return AcceptQueue(*_PAIR.unpack_from(found[_QUEUE]))
    return None


def _find_by_port(port: int) -> AcceptQueue | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        request = _INET_REQUEST.pack(family, socket.IPPROTO_TCP, 0, 0, _LISTEN)
        for message in sock_diag.dump(request):
            if _INET_PORT.unpack_from(message)[0] == port:
                return AcceptQueue(*_PAIR.unpack_from(message, _INET_QUEUE_AT))
    return None


# -- TCP listeners --


@attrs.frozen
class TcpListener:
    """A listening TCP socket."""

    address: IPv4Address | IPv6Address
    port: int
    uid: int
    """The uid of the process that made it."""
    inode: int
    """Its inode, by which its descriptors are found in /proc/PID/fd."""


def list_tcp_listeners(pid: int | str = "self") -> list[TcpListener]:
    """List the listening sockets of the network namespace that a process is in.

    Only as many lines are read as there are listeners, which come before all connections.

    Raises:
        OSError: The table cannot be read.
    """
    found: list[TcpListener] = []
    for table in _TABLES:
        try:
            with open(f"/proc/{pid}/net/{table}", "rb") as file:
                found += _parse_table(file)
        except FileNotFoundError:
            if table == "tcp":
                raise
            continue  # The kernel has no IPv6.
    return found


def _parse_table(lines: Iterable[bytes]) -> Iterator[TcpListener]:
    for line in islice(lines, 1, None):  # after the header line
        fields = line.split()
        if len(fields) < 10 or fields[3] != _PROC_LISTEN:
            return
        host, _, port = fields[1].partition(b":")
        try:
            address, uid, inode = parse_proc_address(host), int(fields[7]), int(fields[9])
            found = TcpListener(address, int(port, 16), uid, inode)
        except (ValueError, struct.error):
            continue  # It is malformed.
        yield found


def parse_proc_address(text: bytes) -> IPv4Address | IPv6Address:
    """Parse an address of a table: words of 32 bits, each in the machine's byte order."""
    count = len(text) // 8
    words = (int(text[8 * at : 8 * at + 8], 16) for at in range(count))
    return _unmap_ipv4(ip_address(struct.pack(f"={count}I", *words)))


def find_listeners(listeners: list[TcpListener], host: str, port: int) -> list[TcpListener]:
    """Find the listeners that a connection to an address may have reached.

    A listener on the address itself takes precedence over wildcard listeners of its family, and
    these over dual-stack wildcard listeners. Several may share an address by SO_REUSEPORT. The host
    and the port are the peer's, from `getpeername`.
    """
    wanted = _unmap_ipv4(ip_address(host.partition("%")[0]))
    candidates = [each for each in listeners if each.port == port]
    for address in (wanted, _WILDCARDS[wanted.version], _WILDCARDS[6]):
        if found := [each for each in candidates if each.address == address]:
            return found
    return []


def _unmap_ipv4(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """Convert an IPv4-mapped IPv6 address to the IPv4 address."""
    mapped = getattr(address, "ipv4_mapped", None)
    return address if mapped is None else mapped


def is_self_connected(sock: socket.socket) -> bool:
    """Whether a TCP socket is connected to itself, so that nothing listens there.

    That happens if the ephemeral port that was chosen for it is the port that it connects to.

    Source: RFC 9293 3.5 (simultaneous open)
    """
    return bool(sock.getsockname() == sock.getpeername())
