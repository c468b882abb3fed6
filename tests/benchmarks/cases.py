"""The cases of the RPC benchmark, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs

from tests.benchmarks.peers.base import LARGE, SMALL, Measurement


@attrs.frozen
class Case:
    """A shape of calls, and what there is to be around the client."""

    run: Callable[[Any, str, float], Measurement]
    """Runs it, given the peer, the address and the seconds."""
    left_out: Mapping[str, str] = attrs.field(factory=dict)
    """Peers without the case, and why."""
    clients: int = 1
    """Client processes at once."""
    idle_connections: int = 0
    """Connections to the server that another process keeps open."""
    tls: bool = False
    """Whether client and server speak TLS."""
    stretch: float = 1.0
    """How many times as long as other cases it runs."""


FLOOR = {"floor": "makes unary calls on plain sockets only"}
FLOOR_HAS_NO_FEATURES = {"floor": "has nothing that this could be added to"}
NO_DEADLINES = {"purerpc": "has no deadlines"}
NO_EVENT_LOOP = {"grpcio": "has no event loop that keeps a schedule"}
UNKNOWN_SOCKET = {"meshtrio-mesh": "its calls go where those of meshtrio go"}
NO_TLS = {"meshtrio-mesh": "its plugins are on Unix sockets, without TLS"}

CASES: dict[str, Case] = {
    "unary, 1 in flight": Case(lambda p, a, s: p.run(p.unary, a, SMALL, 1, s)),
    "unary, 10 in flight": Case(lambda p, a, s: p.run(p.unary, a, SMALL, 10, s)),
    "unary, 50 in flight": Case(lambda p, a, s: p.run(p.unary, a, SMALL, 50, s)),
    "unary, 500 in flight": Case(
        lambda p, a, s: p.run(p.unary, a, SMALL, 500, s),
        left_out={"floor": "has a connection for each call"},
    ),
    "stream messages": Case(lambda p, a, s: p.run(p.stream, a, s), left_out=FLOOR),
    "1 MiB unary": Case(lambda p, a, s: p.run(p.unary, a, LARGE, 1, s)),
    "64 MiB stream": Case(lambda p, a, s: p.run(p.download, a, s), left_out=FLOOR),
    "connect and call": Case(lambda p, a, s: p.run(p.connect, a, s), left_out=FLOOR),
    "20 clients": Case(lambda p, a, s: p.run(p.unary, a, SMALL, 10, s), left_out=FLOOR, clients=20),
    "stream by generator": Case(lambda p, a, s: p.run(p.generator_stream, a, s), left_out=FLOOR),
    "client stream": Case(lambda p, a, s: p.run(p.client_stream, a, s), left_out=FLOOR),
    "server stream": Case(lambda p, a, s: p.run(p.server_stream, a, s), left_out=FLOOR),
    "unary with deadline": Case(
        lambda p, a, s: p.run(p.unary_with_deadline, a, s),
        left_out=FLOOR_HAS_NO_FEATURES | NO_DEADLINES,
    ),
    "unary with 2 KB metadata": Case(
        lambda p, a, s: p.run(p.unary_with_metadata, a, s), left_out=FLOOR_HAS_NO_FEATURES
    ),
    "paced, 1,000/s": Case(
        lambda p, a, s: p.run(p.paced, a, 1000, s), left_out=FLOOR | NO_EVENT_LOOP
    ),
    # Long enough for a 99th percentile: 400 calls in each round by default.
    "paced, 100/s": Case(
        lambda p, a, s: p.run(p.paced, a, 100, s), left_out=FLOOR | NO_EVENT_LOOP, stretch=4.0
    ),
    "100 idle connections": Case(
        lambda p, a, s: p.run(p.unary, a, SMALL, 1, s),
        left_out=FLOOR | UNKNOWN_SOCKET,
        idle_connections=100,
    ),
    "TLS unary, 1 in flight": Case(
        lambda p, a, s: p.run(p.unary, a, SMALL, 1, s), left_out=FLOOR | NO_TLS, tls=True
    ),
    "TLS unary, 50 in flight": Case(
        lambda p, a, s: p.run(p.unary, a, SMALL, 50, s), left_out=FLOOR | NO_TLS, tls=True
    ),
}
