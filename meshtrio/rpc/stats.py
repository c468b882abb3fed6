"""What connections, channels and servers count, so cheaply that every call may pay for it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from meshtrio.rpc.connection import Connection
    from meshtrio.rpc.stream import Stream


class CallCounters:
    """Counts of one thing since it was made; who counts which of them is said by `call_stats` and
    `messages_of`.
    """

    __slots__ = (
        "failed",
        "keepalives_sent",
        "last_started",
        "messages_received",
        "messages_sent",
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
        self.messages_sent = self.messages_received = 0
        """Messages; on a client's connection with what `messages_of` adds."""
        self.keepalives_sent = 0
        """PINGs that asked for a sign of life."""

    def end_call(self, *, failed: bool) -> None:
        """Count the end of a call, where there is no haste."""
        if failed:
            self.failed += 1
        else:
            self.succeeded += 1

    def add_calls(self, counters: CallCounters) -> None:
        """Take over the calls that another has counted."""
        self.started += counters.started
        self.succeeded += counters.succeeded
        self.failed += counters.failed
        self.last_started = max(self.last_started, counters.last_started)


def has_succeeded(stream: Stream) -> bool:
    """Whether a client's stream ended with status OK."""
    return stream.trailers is not None and stream.trailers.code == 0


def call_stats(connection: Connection) -> CallCounters:
    """The calls of a connection, with Unix time.

    On a client nothing is counted but failures, and the rest is known: ids tell how many streams
    were opened, and those that are neither open nor failed have succeeded.
    """
    tally = connection.counters
    if not connection.is_client:
        calls = CallCounters(tally.started, tally.succeeded, tally.failed)
        if tally.started:
            calls.last_started = time.time() - connection.seconds_since(tally.last_started)
        return calls
    started = connection.engine.streams_opened
    succeeded = started - tally.failed - len(connection.streams)
    calls = CallCounters(started, succeeded, tally.failed)
    calls.last_started = tally.last_started
    return calls


def final_call_stats(connection: Connection) -> CallCounters:
    """The same once it is over: what has not succeeded by then has failed."""
    calls = call_stats(connection)
    calls.failed = calls.started - calls.succeeded
    return calls


def stream_stats(connection: Connection) -> CallCounters:
    """Streams by how they ended for HTTP/2, whatever their status: succeeded if the server has
    ended them.
    """
    engine = connection.engine
    started = engine.streams_opened if connection.is_client else connection.counters.started
    failed = engine.streams_failed
    return CallCounters(started, started - failed - engine.open_stream_count, failed)


def message_stats(connection: Connection) -> tuple[int, int]:
    """Messages sent and received; not those of calls that are passed on, which nobody looks at.

    A client's stream is taken to send one message, and one that succeeds to receive one, as it is
    with most calls, which then need not be counted; those that stream or are passed on correct it.
    """
    tally = connection.counters
    if not connection.is_client:
        return tally.messages_sent, tally.messages_received
    calls = call_stats(connection)
    return calls.started + tally.messages_sent, calls.succeeded + tally.messages_received
