"""Lists listening TCP sockets from /proc/net/tcp and tcp6 (proc(5)). For a worker thread."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import islice

import attrs

_LISTEN = b"0A"
_TABLES = ("tcp", "tcp6")
_WILDCARDS = {4: IPv4Address("0.0.0.0"), 6: IPv6Address("::")}  # noqa: S104 - nothing is bound here


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
        if len(fields) < 10 or fields[3] != _LISTEN:
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
