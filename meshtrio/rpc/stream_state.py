"""What a stream knows: the attributes of the classes from `ReceiveBuffer` to `Stream`."""

from __future__ import annotations

from collections import deque

import purerpc
import trio

from meshtrio.grpc.framing import IDENTITY, MessageData, MessageReader
from meshtrio.grpc.headers import ResponseHeaders, Trailers
from meshtrio.rpc.connection_io import ConnectionIO
from meshtrio.rpc.tracer_dispatch import MessageTracer
from meshtrio.util.concurrency import SingleWaiter

FIRST_CLOCK_CHECK = 4
"""Number of messages that a task handles after a wait before it reads the clock."""


class StreamState:
    """The attributes of a `Stream`, in one class: each constructor in a chain takes time."""

    __slots__ = (
        "_charged_unread_size",
        "_clock_check_interval",
        "_clock_checked_at",
        "_connection",
        "_incomplete_since",
        "_is_turn_over",
        "_messages",
        "_readable",
        "_reader",
        "_taken_size",
        "_unparsed",
        "_unread_size",
        "_until_clock_check",
        "_writable",
        "account",
        "cancel_on_error",
        "encoding",
        "error",
        "has_large_message",
        "has_reservation",
        "headers",
        "headers_sent",
        "id",
        "is_awaiting_end_stream",
        "last_message_compressed",
        "message_limits",
        "message_tracer",
        "owner",
        "path",
        "received_charge",
        "received_size",
        "remote_closed",
        "request_sent",
        "reserved_charge",
        "sending_charge",
        "sent_size",
        "taken_charge",
        "trailers",
    )

    def __init__(
        self, connection: ConnectionIO, id: int, path: str = "", encoding: str = IDENTITY
    ) -> None:
        self._connection = connection
        self.id = id
        self.path = path
        """The `:path` of the call: on a server, and on a client if the call is traced."""
        self.account = connection.account
        """The account that an open stream of a server is charged to."""
        self.received_charge = 0
        """Size of the messages that wait to be taken, as charged, in bytes."""
        self.reserved_charge = 0
        """The part of `received_charge` for which room was reserved, in bytes."""
        self.taken_charge = 0
        """Size of the message that the handler works with, as charged, in bytes."""
        self.sending_charge = 0
        """Size of data that is sent but not read, or expected to be sent, as charged, in bytes."""
        self.has_reservation = False
        """Whether room is reserved for an incomplete message that does not fit into the window."""
        self.has_large_message = False
        """Whether such a message is complete and has not been taken yet."""
        self.message_limits = connection.message_limits
        """The size limits of messages; a call with limits of its own sets them when it starts."""
        self.encoding = encoding
        """The encoding of the peer's compressed messages."""
        self.trailers: Trailers | None = None
        """The trailers of the response, on a client."""
        self.remote_closed = False
        """Whether the peer has ended its side (END_STREAM)."""
        self.error: purerpc.RpcFailedError | None = None
        """The error that ended the stream early."""
        self.is_awaiting_end_stream = False
        """Whether a server has the only request of a call and waits for the client's END_STREAM."""
        # Each exists only while it holds something. `_messages` is short, so that removing the
        # first item costs less than the allocation of a deque.
        self._messages: list[MessageData] | tuple[()] = ()
        self._unparsed: deque[bytes] | tuple[()] = ()
        self._unread_size = 0
        """Size of the waiting messages and of unparsed DATA, in bytes."""
        self._charged_unread_size = 0
        """Value of `_unread_size` when it was charged last: small changes are not worth it."""
        self._taken_size = 0
        """Size of the messages that were taken since the window was opened last, in bytes."""
        self._incomplete_since = 0.0
        self._reader: MessageReader | None = None
        """Made for the first DATA that is not exactly one message."""

        self.last_message_compressed = False
        """Whether the message that was taken last was compressed."""
        self.received_size = 0
        """Size of the received messages as they were sent, in bytes, without framing."""
        self.message_tracer: MessageTracer | None = None
        """The tracer of the stream's messages, if one is installed."""
        self._until_clock_check = FIRST_CLOCK_CHECK
        """Number of messages until the next reading of the clock."""
        self._clock_check_interval = FIRST_CLOCK_CHECK
        self._clock_checked_at = 0.0
        """The time of the last reading; 0 if the task has waited since."""
        self._is_turn_over = False
        """Whether the task must wait for a turn before it handles another message."""
        # Made when a task first waits: most messages arrive whole.
        self._readable: SingleWaiter | None = None

        self.headers: ResponseHeaders | None = None
        """The response headers, on a client."""
        self.request_sent = False
        """Whether a client has sent the only request with the request headers."""
        self.headers_sent = False
        """Whether a server has sent the response headers, so that trailers must follow."""
        self.owner: object = None
        """The channel of the call, on a client."""
        self.sent_size = 0
        """Size of the messages as they were sent, in bytes, without framing."""
        self.cancel_on_error: trio.CancelScope | None = None
        """The scope of the handler, on a server, which is cancelled if the stream fails."""
        self._writable: SingleWaiter | None = None
        account = connection.account
        if account is not None:
            account.peer_account.active_calls += 1
