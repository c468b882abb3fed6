"""The interface between a stream and its connection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from meshtrio.http2.errors import ErrorCode
from meshtrio.http2.limits import Limits
from meshtrio.rpc.fairness import EventLoopShare
from meshtrio.rpc.message_limits import MessageLimits
from meshtrio.rpc.peer_accounts import ConnectionAccount
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.window_waiters import WindowWaiter
from meshtrio.rpc.write_buffer import WriteBuffer
from meshtrio.transport.peer import Peer


class StreamTransport(Protocol):
    """The part of a connection that its streams use."""

    is_client: bool
    limits: Limits
    message_limits: MessageLimits
    counters: CallCounters
    account: ConnectionAccount | None
    """The account that streams are charged to; None on a client."""
    loop_share: EventLoopShare
    write_buffer: WriteBuffer
    window_waiters: dict[WindowWaiter, None]
    """The streams that wait for the connection's window."""

    @property
    def peer(self) -> Peer: ...

    @property
    def streams(self) -> Mapping[int, object]: ...

    def is_send_open(self, stream_id: int) -> bool:
        """Whether this side of a stream is open."""

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool = False) -> None: ...

    def send_data(
        self, stream_id: int, data: bytes | memoryview, *, end_stream: bool = False
    ) -> int:
        """Send as much DATA as the flow-control windows allow; return its size in bytes."""

    def set_receive_window(self, stream_id: int, size: int) -> bool:
        """Let the peer send DATA of a size; return whether a flush is due."""

    def flush(self) -> None: ...

    def wake_on_window(self, stream: WindowWaiter) -> None:
        """Call `on_writable` when the connection's flow-control window opens."""

    def wake_next_sender(self, stream: WindowWaiter) -> None:
        """Leave the rest of the connection's window to the next stream that waits for it."""

    def remove_stream(self, stream_id: int, code: ErrorCode) -> None:
        """Close a stream in both directions, and reset it unless it has ended."""
