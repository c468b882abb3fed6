"""Connections to a server that have made one call each and are idle since, whatever it runs on."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import h2.connection
import h2.events

from tests.benchmarks.peers.base import SERVICE, SMALL, tcp_port

_HEADERS = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", SERVICE + "Echo"),
    (":authority", "localhost"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
)


@contextlib.contextmanager
def hold_connections(name: str, address: str, count: int) -> Iterator[None]:
    """Hold them for the block, in this process, in which nothing else happens meanwhile."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            _call_once(stack.enter_context(_connect(name, address)))
        yield


def _connect(name: str, address: str) -> socket.socket:
    if name == "purerpc":
        return socket.create_connection(("127.0.0.1", tcp_port(address)))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    return connection


def _call_once(connection: socket.socket) -> None:
    engine = h2.connection.H2Connection()
    engine.initiate_connection()
    engine.send_headers(1, _HEADERS)
    message = SMALL.SerializeToString()
    engine.send_data(1, b"\0" + len(message).to_bytes(4, "big") + message, end_stream=True)
    has_ended = False
    while not has_ended:
        connection.sendall(engine.data_to_send())
        data = connection.recv(65536)
        if not data:
            raise SystemExit("the server has closed a connection that was to be idle")
        events = engine.receive_data(data)
        has_ended = any(isinstance(event, h2.events.StreamEnded) for event in events)
    connection.sendall(engine.data_to_send())
