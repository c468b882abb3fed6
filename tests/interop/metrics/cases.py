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
    Case("empty", "unary, of empty messages"),
    Case("unary", "unary, 2000 bytes each way"),
    Case("bounds", "unary, messages of exactly 1024 bytes, which is a bucket's bound"),
    Case("gzip", "unary, compressed by gzip both ways"),
    Case("not_found", "unary, the handler says NOT_FOUND"),
    Case("broken", "unary, the handler raises what is no status"),
    Case("unimplemented", "a method that is declared, and has no handler"),
    Case("unknown", "a method of a service that the server does not have"),
    Case("requests", "three requests, one reply"),
    Case("replies", "one request, three replies"),
    Case("stream", "three requests and three replies by turns"),
    Case("stream_fails", "the same, then NOT_FOUND"),
    Case("retried", "unary, UNAVAILABLE twice, then made again with success", attempts=3),
    Case("retried_in_vain", "unary, UNAVAILABLE as often as it is made", attempts=3),
    Case("deadline_unary", "unary, the deadline passes in the handler", ended_by_caller=True),
    Case(
        "deadline_stream",
        "a stream whose deadline passes after three replies",
        ended_by_caller=True,
    ),
    Case("cancelled", "a stream that its caller cancels after three replies", ended_by_caller=True),
    Case("nobody", "unary, nobody listens, and it does not wait", reaches_server=False),
    Case("nobody_retried", "the same, by a policy that retries", attempts=3, reaches_server=False),
    Case("nobody_deadline", "the same, waiting until its deadline passes", reaches_server=False),
    Case("peer_dies", "a stream whose server exits after three replies"),
)
LAST_CASE = CASES[-1]
"""After it the server is no more."""
