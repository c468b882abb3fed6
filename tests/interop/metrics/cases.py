"""The calls that every implementation makes, by the names its process is told."""

from __future__ import annotations

import attrs


@attrs.frozen
class Case:
    """One call."""

    name: str
    description: str
    attempts: int = 1
    """So many a client makes that goes by its retry policy."""
    reaches_server: bool = True
    """They come to a server."""
    ended_by_caller: bool = False
    """The caller ends it."""


# Those that their caller ends are the last ones a server is asked for: see `runs`.
CASES = (
    Case("empty", "unary, empty messages"),
    Case("unary", "unary, 2000 bytes each way"),
    Case("bounds", "unary, messages of exactly 1024 bytes, the bound of a bucket"),
    Case("gzip", "unary, compressed with gzip both ways"),
    Case("not_found", "unary, the handler returns NOT_FOUND"),
    Case("broken", "unary, the handler raises an exception that is not a status"),
    Case("unimplemented", "a method that is declared and has no handler"),
    Case("unknown", "a method of a service that the server does not have"),
    Case("requests", "client streaming: three requests, one reply"),
    Case("replies", "server streaming: one request, three replies"),
    Case("stream", "bidirectional streaming: three requests and three replies in turns"),
    Case("stream_fails", "the same, then NOT_FOUND"),
    Case("retried", "unary, UNAVAILABLE twice, then OK", attempts=3),
    Case("retried_in_vain", "unary, UNAVAILABLE for each attempt", attempts=3),
    Case("deadline_unary", "unary, the deadline passes in the handler", ended_by_caller=True),
    Case(
        "deadline_stream",
        "a stream whose deadline passes after three replies",
        ended_by_caller=True,
    ),
    Case("cancelled", "a stream that its caller cancels after three replies", ended_by_caller=True),
    Case("nobody", "unary, no server listens, without wait_for_ready", reaches_server=False),
    Case(
        "nobody_retried",
        "unary, no server listens, without wait_for_ready, with a retry policy",
        attempts=3,
        reaches_server=False,
    ),
    Case(
        "nobody_deadline",
        "unary, no server listens, with wait_for_ready, until the deadline",
        reaches_server=False,
    ),
    Case("peer_dies", "a stream whose server exits after three replies"),
)
LAST_CASE = CASES[-1]
"""After it the server is no more."""
