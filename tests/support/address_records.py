"""A name server that answers all queries for IPv4 addresses with those that a test has set.

For clients of other implementations, which take a name server as the authority of a target:
`dns://127.0.0.1:PORT/name:1234`.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

_HEADER = struct.Struct("!6H")
_ANSWER = 0x8180
"""The flags of a response without an error, recursion being available (RFC 1035 §4.1.1)."""
_NAME_OF_QUESTION = b"\xc0\x0c"
"""A pointer to the name after the header (RFC 1035 §4.1.4)."""
_TYPE_A, _CLASS_IN = 1, 1


class AddressRecords:
    """The name server; `addresses` may be changed at any time."""

    def __init__(self, sock: socket.socket, addresses: list[str]) -> None:
        self.addresses = addresses
        self.port: int = sock.getsockname()[1]
        self._socket = sock

    def serve(self) -> None:
        """Answer queries until the socket is shut down."""
        while True:
            query, client = self._socket.recvfrom(4096)
            if not query:
                return
            self._socket.sendto(self._answer(query), client)

    def _answer(self, query: bytes) -> bytes:
        identifier = _HEADER.unpack_from(query)[0]
        end = query.index(b"\0", _HEADER.size) + 5
        kind = struct.unpack_from("!H", query, end - 4)[0]
        addresses = self.addresses if kind == _TYPE_A else []
        header = _HEADER.pack(identifier, _ANSWER, 1, len(addresses), 0, 0)
        fixed = _NAME_OF_QUESTION + struct.pack("!HHIH", _TYPE_A, _CLASS_IN, 0, 4)
        answers = (fixed + socket.inet_aton(address) for address in addresses)
        return header + query[_HEADER.size : end] + b"".join(answers)


@contextmanager
def serve_addresses(*addresses: str) -> Iterator[AddressRecords]:
    """Serve on a UDP port of 127.0.0.1 for the block."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        records = AddressRecords(sock, list(addresses))
        thread = threading.Thread(target=records.serve)
        thread.start()
        try:
            yield records
        finally:
            sock.sendto(b"", ("127.0.0.1", records.port))
            thread.join(10)
