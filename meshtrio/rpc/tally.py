"""What connections, channels and servers count, so cheaply that every call may pay for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshtrio.rpc.connection import Connection
    from meshtrio.rpc.stream import Stream


class Tally:
    """Counts of one thing since it was made; who counts which of them is said by `calls_of` and
    `messages_of`.
    """

    __slots__ = (
        "failed",
        "keepalives",
        "last_started",
        "received",
        "sent",
        "started",
        "succeeded",
    )

    def __init__(self, started: int = 0, succeeded: int = 0, failed: int = 0) -> None:
        self.started = started
        """Calls."""
        self.succeeded = succeeded
        """Of these, ended with status OK."""
        self.failed = failed
        """Ended in any other way."""
        self.last_started = 0.0
        """When the last call was, 0 for never: Unix time, on a server's connection its clock's."""
        self.sent = self.received = 0
        """Messages; on a client's connection with what `messages_of` adds."""
        self.keepalives = 0
        """PINGs that asked for a sign of life."""

    def end(self, *, failed: bool) -> None:
        """Count the end of a call, where there is no haste."""
        if failed:
            self.failed += 1
        else:
            self.succeeded += 1

    def add(self, calls: Tally) -> None:
        """Take over the calls that another has counted."""
        self.started += calls.started
        self.succeeded += calls.succeeded
        self.failed += calls.failed
        self.last_started = max(self.last_started, calls.last_started)


def succeeded(stream: Stream) -> bool:
    """Whether a client's stream ended with status OK."""
    return stream.trailers is not None and stream.trailers.code == 0


def calls_of(connection: Connection) -> Tally:
    """The calls of a connection, with Unix time.

    On a client nothing is counted but failures, and the rest is known: ids tell how many streams
    were opened, and those that are neither open nor failed have succeeded.
    """
    tally = connection.tally
    if not connection.is_client:
        calls = Tally(tally.started, tally.succeeded, tally.failed)
        if tally.started:
            calls.last_started = time.time() - connection.seconds_since(tally.last_started)
        return calls
    started = connection.engine.streams_opened
    succeeded = started - tally.failed - len(connection.streams)
    calls = Tally(started, succeeded, tally.failed)
    calls.last_started = tally.last_started
    return calls


def calls_in_the_end(connection: Connection) -> Tally:
    """The same once it is over: what has not succeeded by then has failed."""
    calls = calls_of(connection)
    calls.failed = calls.started - calls.succeeded
    return calls


def streams_of(connection: Connection) -> Tally:
    """Streams by how they ended for HTTP/2, whatever their status: succeeded if the server has
    ended them.
    """
    engine = connection.engine
    started = engine.streams_opened if connection.is_client else connection.tally.started
    failed = engine.streams_failed
    return Tally(started, started - failed - engine.open_streams, failed)


def messages_of(connection: Connection) -> tuple[int, int]:
    """Messages sent and received; not those of calls that are passed on, which nobody looks at.

    A client's stream is taken to send one message, and one that succeeds to receive one, as it is
    with most calls, which then need not be counted; those that stream or are passed on correct it.
    """
    tally = connection.tally
    if not connection.is_client:
        return tally.sent, tally.received
    calls = calls_of(connection)
    return calls.started + tally.sent, calls.succeeded + tally.received
