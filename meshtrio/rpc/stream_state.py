"""What a stream knows: the attributes of the classes from `ReceiveBuffer` to `Stream`."""

from __future__ import annotations

from collections import deque

import attrs
import purerpc
import trio

from meshtrio.grpc.framing import IDENTITY, MessageReader
from meshtrio.grpc.headers import ResponseHeaders, Trailers
from meshtrio.rpc.connection_io import ConnectionIO
from meshtrio.rpc.message_limits import MessageLimits
from meshtrio.rpc.peer_accounts import ConnectionAccount
from meshtrio.rpc.tracer_dispatch import MessageTracer
from meshtrio.util.concurrency import SingleWaiter

FIRST_CLOCK_CHECK = 4
"""Number of messages that a task handles after a wait before it reads the clock."""


@attrs.define(eq=False, repr=False, weakref_slot=False)
class StreamState:
    """The attributes of a `Stream`.

    They are all in one class, because attrs generates the constructor anew for each class of a
    chain, with the fields of those before it: 1.3 ms more for the import in every plugin.
    """

    _connection: ConnectionIO
    id: int
    path: str = ""
    """The `:path` of the call: on a server, and on a client if the call is traced."""
    account: ConnectionAccount | None = attrs.field(init=False)
    """The account that an open stream of a server is charged to."""
    received_charge: int = 0
    """Size of the messages that wait to be taken, as charged, in bytes."""
    reserved_charge: int = 0
    """The part of `received_charge` for which room was reserved, in bytes."""
    taken_charge: int = 0
    """Size of the message that the handler works with, as charged, in bytes."""
    sending_charge: int = 0
    """Size of data that is sent but not read, or expected to be sent, as charged, in bytes."""
    has_reservation: bool = False
    """Whether room is reserved for an incomplete message that does not fit into the window."""
    has_large_message: bool = False
    """Whether such a message is complete and has not been taken yet."""
    message_limits: MessageLimits = attrs.field(init=False)
    """The size limits of messages; a call with limits of its own sets them when it starts."""
    encoding: str = IDENTITY
    """The encoding of the peer's compressed messages."""
    trailers: Trailers | None = None
    """The trailers of the response, on a client."""
    remote_closed: bool = False
    """Whether the peer has ended its side (END_STREAM)."""
    error: purerpc.RpcFailedError | None = None
    """The error that ended the stream early."""
    is_awaiting_end_stream: bool = False
    """Whether a server has the only request of a call and waits for the client's END_STREAM."""
    # Each exists only while it holds something. `_messages` is short, so that removing the first
    # item costs less than the allocation of a deque.
    _messages: list[bytes] | tuple[()] = ()
    _unparsed: deque[bytes] | tuple[()] = ()
    _unread_size: int = 0
    """Size of the waiting messages and of unparsed DATA, in bytes."""
    _charged_unread_size: int = 0
    """Value of `_unread_size` when it was charged last: small changes are not worth it."""
    _taken_size: int = 0
    """Size of the messages that were taken since the window was opened last, in bytes."""
    _incomplete_since: float = 0.0
    _reader: MessageReader | None = None
    """Made for the first DATA that is not exactly one message."""

    # -- of the receiving side ---------------------------------------------------------------

    last_message_compressed: bool = False
    """Whether the message that was taken last was compressed."""
    received_size: int = 0
    """Size of the received messages as they were sent, in bytes, without framing."""
    message_tracer: MessageTracer | None = None
    """The tracer of the stream's messages, if one is installed."""
    _until_clock_check: int = FIRST_CLOCK_CHECK
    """Number of messages until the next reading of the clock."""
    _clock_check_interval: int = FIRST_CLOCK_CHECK
    _clock_checked_at: float = 0.0
    """The time of the last reading; 0 if the task has waited since."""
    _is_turn_over: bool = False
    """Whether the task must wait for a turn before it handles another message."""
    # Made when a task first waits: most messages arrive whole.
    _readable: SingleWaiter | None = None

    # -- of both sides -----------------------------------------------------------------------

    headers: ResponseHeaders | None = None
    """The response headers, on a client."""
    request_sent: bool = False
    """Whether a client has sent the only request with the request headers."""
    headers_sent: bool = False
    """Whether a server has sent the response headers, so that trailers must follow."""
    owner: object = None
    """The channel of the call, on a client."""
    sent_size: int = 0
    """Size of the messages as they were sent, in bytes, without framing."""
    cancel_on_error: trio.CancelScope | None = None
    """The scope of the handler, on a server, which is cancelled if the stream fails."""
    _writable: SingleWaiter | None = None

    def __attrs_post_init__(self) -> None:
        connection = self._connection
        self.message_limits, self.account = connection.message_limits, connection.account
        if self.account is not None:
            self.account.peer_account.active_calls += 1
