"""One side of an HTTP/2 connection, without I/O: bytes in, events out (RFC 9113)."""

from __future__ import annotations

from enum import Enum

from meshtrio.http2 import frames
from meshtrio.http2.abuse_limits import AbuseLimits
from meshtrio.http2.errors import ErrorCode, LocalProtocolError, RemoteProtocolError, StreamError
from meshtrio.http2.events import ConnectionFailed, Events, StreamReset
from meshtrio.http2.frame_reader import FrameReader
from meshtrio.http2.frames import DATA, HEADERS, pack_frame_header
from meshtrio.http2.hpack.decoder import HeaderDecoder
from meshtrio.http2.limits import Limits
from meshtrio.http2.receiver import FrameReceiver, HeaderParsers
from meshtrio.http2.settings import PeerSettings, encode_preface
from meshtrio.http2.stream import TRANSITIONS, H2Stream, StreamInput, StreamState
from meshtrio.http2.streams import ConnectionWindows, StreamTable

# As globals, because looking up a member of an IntEnum costs more than the rest of a frame's work.
_, _HALF_CLOSED_LOCAL, _HALF_CLOSED_REMOTE, _CLOSED = StreamState
_SEND, _SEND_END = StreamInput.SEND, StreamInput.SEND_END
_END_STREAM, _END_HEADERS = frames.END_STREAM, frames.END_HEADERS
_LAST_HEADERS = _END_STREAM | _END_HEADERS

_DEFAULT_LIMITS = Limits()


class Role(Enum):
    """The side of a connection."""

    CLIENT = "client"
    """Opens streams."""
    SERVER = "server"
    """Accepts streams."""


class H2Connection:
    """One side of an HTTP/2 connection.

    Received bytes go into `receive_data`, which returns events; the methods that send put frames
    into a buffer, which `data_to_send` and `buffers_to_send` empty. See `meshtrio.http2` for the
    order of calls and the invariants.

    Violations by the peer never raise. A stream error (RFC 9113 §5.4.2) resets the stream and
    returns `StreamReset`, a connection error (§5.4.1) closes the connection and returns
    `ConnectionFailed`. LocalProtocolError is a bug of the caller.
    """

    def __init__(self, role: Role, parsers: HeaderParsers, limits: Limits | None = None) -> None:
        """Start a connection, with the connection preface in the buffer of frames to send."""
        self.role = role
        """The side of the connection."""
        self.limits = limits = limits or _DEFAULT_LIMITS
        """Limits on what the peer may send."""
        self.closed = False
        """Whether GOAWAY was sent that ends the connection: nothing is received or sent after."""
        self._is_client = is_client = role is Role.CLIENT
        self.frame_reader = FrameReader(
            expect_preface=not is_client,
            max_frame_size=limits.max_frame_size,
            max_block_size=max(limits.absolute_max_header_list_size, limits.max_header_list_size),
        )
        outgoing = self._outgoing = list[bytes | memoryview]()
        """Frames to send; `_receiver` appends to the same list."""
        self.unsent = outgoing
        """The same, to see whether there are any."""
        settings = self.peer_settings = PeerSettings(limits.max_send_header_list_size, is_client)
        abuse = self.abuse_limits = AbuseLimits(limits, is_client=is_client)
        self._control_bucket = abuse.control_bucket
        windows = self.windows = ConnectionWindows(limits.connection_window)
        """The flow control windows of the connection."""
        streams = self.streams = StreamTable(settings, abuse, limits.stream_window, is_client)
        """The streams of the connection."""
        self._by_id = streams.by_id
        decoder = HeaderDecoder(limits.max_header_list_size, limits.absolute_max_header_list_size)
        self._receiver = FrameReceiver(
            parsers, limits, settings, windows, streams, abuse, outgoing, decoder, is_client
        )
        self._outgoing += encode_preface(limits, is_client=is_client)

    # -- state -------------------------------------------------------------------------------

    @property
    def can_open_stream(self) -> bool:
        """Whether `open_stream` may be called now."""
        table = self.streams  # The conditions of `exhausted`, without a call of it.
        return (
            len(self._by_id) < self.peer_settings.max_concurrent_streams
            and not self.closed
            and table.peer_last_stream_id is None
            and table.next_id <= frames.MAX_STREAM_ID
        )

    @property
    def exhausted(self) -> bool:
        """Whether no stream can be opened any more."""
        return (
            self.closed
            or self.streams.peer_last_stream_id is not None
            or self.streams.next_id > frames.MAX_STREAM_ID
        )

    @property
    def open_stream_count(self) -> int:
        """Number of streams that are neither idle nor closed."""
        return len(self._by_id)

    def is_send_open(self, stream_id: int) -> bool:
        """Return whether this side may send on a stream."""
        stream = self._by_id.get(stream_id)
        return stream is not None and stream.state is not _HALF_CLOSED_LOCAL

    def is_half_closed_local(self, stream_id: int) -> bool:
        """Return whether this side has ended its half of a stream, and the peer has not."""
        stream = self._by_id.get(stream_id)
        return stream is not None and stream.state is _HALF_CLOSED_LOCAL

    def is_receive_window_open(self, stream_id: int) -> bool:
        """Return whether both windows allow the peer to send DATA on a stream."""
        stream = self._by_id.get(stream_id)
        return stream is not None and min(stream.receive_window, self.windows.receive) > 0

    # -- sending -----------------------------------------------------------------------------

    def data_to_send(self) -> bytes:
        """Take the frames to send, as bytes; empty if there are none."""
        return b"".join(self.buffers_to_send())

    def buffers_to_send(self) -> list[bytes | memoryview]:
        """Take the frames to send, in pieces for scatter/gather I/O, without copying payloads."""
        buffers = self._outgoing.copy()
        self._outgoing.clear()
        return buffers

    def open_stream(self, block: bytes, *, end_stream: bool = False) -> int:
        """Send request headers, and return the id of the new stream.

        Raises LocalProtocolError if `can_open_stream` is false, or this is a server.
        """
        if not self._is_client or not self.can_open_stream:
            raise LocalProtocolError("no stream can be opened on this connection now")
        stream, settings, length = self.streams.open(), self.peer_settings, len(block)
        if end_stream or length > settings.max_frame_size or settings.pending_table_size_update:
            self._send_header_block(stream, block, end_stream=end_stream)
        else:  # The same in fewer steps, as for nearly all calls.
            header = pack_frame_header(length >> 8, length & 0xFF, HEADERS, _END_HEADERS, stream.id)
            self._outgoing.append(header + block)
        return stream.id

    def try_open_stream_with_data(self, block: bytes, data: bytes) -> int:
        """Send the headers of a request and all its DATA, and return the id of the new stream.

        Returns 0, and sends nothing, if no stream can be opened, the flow control windows are too
        small, or a part does not fit into a frame: `open_stream` and `send_data` are for those
        cases.
        """
        windows, settings, size, length = self.windows, self.peer_settings, len(data), len(block)
        max_size = settings.max_frame_size
        if (
            not self._is_client
            or not self.can_open_stream
            or size > settings.initial_window_size
            or size > windows.send
            or size > max_size
            or length > max_size
            or settings.pending_table_size_update
        ):
            return 0
        stream = self.streams.open()
        stream_id, stream.state = stream.id, _HALF_CLOSED_LOCAL
        stream.send_window -= size
        windows.send -= size
        self._control_bucket.credits += 2 + (size >> 10)  # As in `send_data`.
        self._outgoing.append(
            pack_frame_header(length >> 8, length & 0xFF, HEADERS, _END_HEADERS, stream_id)
            + block
            + pack_frame_header(size >> 8, size & 0xFF, DATA, _END_STREAM, stream_id)
            + data
        )
        return stream_id

    def send_headers(self, stream_id: int, block: bytes, *, end_stream: bool = False) -> None:
        """Send response headers or trailers. Raises LocalProtocolError if `is_send_open` is not."""
        stream = self._by_id.get(stream_id) or self.streams.get_open(stream_id)
        stream.response_started = True
        self._send_header_block(stream, block, end_stream=end_stream)

    def _send_header_block(self, stream: H2Stream, block: bytes, *, end_stream: bool) -> None:
        frame = _SEND_END if end_stream else _SEND
        next_state = TRANSITIONS[stream.state][frame]
        if next_state is None:
            stream.process_input(frame)  # Raises.
        else:
            stream.state = next_state
        settings = self.peer_settings
        if settings.pending_table_size_update:
            block = settings.pending_table_size_update + block
            settings.pending_table_size_update = b""
        length = len(block)
        if length <= settings.max_frame_size:
            flags = _LAST_HEADERS if end_stream else _END_HEADERS
            header = pack_frame_header(length >> 8, length & 0xFF, HEADERS, flags, stream.id)
            self._outgoing.append(header + block)
        else:
            self._outgoing.append(
                frames.encode_header_block(
                    stream.id, block, end_stream=end_stream, max_frame_size=settings.max_frame_size
                )
            )
        if next_state is _CLOSED:
            self.streams.remove_closed(stream)

    def send_data(
        self, stream_id: int, data: bytes | memoryview, *, end_stream: bool = False
    ) -> int:
        """Send as much of `data` as the flow control windows allow, and return its size.

        If that is less than all, `end_stream` had no effect, and the rest can be sent after
        `WindowUpdated`. Raises LocalProtocolError if `is_send_open` is false.
        """
        stream = self._by_id.get(stream_id) or self.streams.get_open(stream_id)
        windows, length = self.windows, len(data)
        if length <= stream.send_window and length <= windows.send:
            sent = length
        else:
            sent = max(min(stream.send_window, windows.send), 0)
        ends = end_stream and sent == length
        if not sent and not ends:
            return 0
        frame = _SEND_END if ends else _SEND
        next_state = TRANSITIONS[stream.state][frame]
        if next_state is None:
            stream.process_input(frame)  # Raises.
        else:
            stream.state = next_state
        stream.send_window -= sent
        windows.send -= sent
        # For the WINDOW_UPDATE frames of stream and connection that restore the windows: some peers
        # send both for every 4 KiB.
        self._control_bucket.credits += 2 + (sent >> 10)
        flags = _END_STREAM if ends else 0
        if sent <= self.peer_settings.max_frame_size:
            header = pack_frame_header(sent >> 8, sent & 0xFF, DATA, flags, stream_id)
            self._outgoing += (header, data if sent == length else data[:sent])
        else:
            self._outgoing += frames.encode_data_frames(
                stream_id, data[:sent], flags, self.peer_settings.max_frame_size
            )
        if next_state is _CLOSED:
            self.streams.remove_closed(stream)
        return sent

    def try_send_message(
        self, stream_id: int, data: bytes, headers: bytes, trailers: bytes, end_stream: bool
    ) -> bool:
        """Send all of `data`, with header blocks before and after it that are not empty.

        Trailers end the stream. Returns False, and sends nothing, if the flow control windows are
        too small, a part does not fit into a frame, or nothing may be sent on the stream:
        `send_headers` and `send_data` are for those cases.
        """
        stream = self._by_id.get(stream_id)
        windows, settings, size = self.windows, self.peer_settings, len(data)
        max_size = settings.max_frame_size
        if (
            stream is None
            or size > stream.send_window
            or size > windows.send
            or size > max_size
            or settings.pending_table_size_update
            or (headers and (stream.response_started or len(headers) > max_size))
            or (trailers and len(trailers) > max_size)
        ):
            return False
        next_state = TRANSITIONS[stream.state][_SEND_END if end_stream or trailers else _SEND]
        if next_state is None:
            return False
        stream.state, out = next_state, b""
        if size or end_stream:
            stream.send_window -= size
            windows.send -= size
            self._control_bucket.credits += 2 + (size >> 10)  # As in `send_data`.
            flags = _END_STREAM if end_stream else 0
            out = pack_frame_header(size >> 8, size & 0xFF, DATA, flags, stream_id) + data
        if headers:
            stream.response_started, size = True, len(headers)
            header = pack_frame_header(size >> 8, size & 0xFF, HEADERS, _END_HEADERS, stream_id)
            out = header + headers + out
        if trailers:
            size = len(trailers)
            header = pack_frame_header(size >> 8, size & 0xFF, HEADERS, _LAST_HEADERS, stream_id)
            out += header + trailers
        self._outgoing.append(out)
        if next_state is _CLOSED:
            self.streams.remove_closed(stream)
        return True

    def reset_stream(self, stream_id: int, error_code: ErrorCode) -> bool:
        """Send RST_STREAM, and return whether the stream was open."""
        stream = self._by_id.get(stream_id)
        if stream is None or self.closed:
            return False
        self.streams.reset(stream)
        self._outgoing.append(frames.rst_stream(stream_id, error_code))
        return True

    def set_receive_window(self, stream_id: int, size: int) -> bool:
        """Increase a stream's receive window to `size` bytes; a larger one is not reduced.

        Returns whether WINDOW_UPDATE was sent: for an increase of half the initial window or more.
        """
        stream = self._by_id.get(stream_id)
        if stream is None or stream.state is _HALF_CLOSED_REMOTE:
            return False
        size = min(size, frames.MAX_WINDOW_SIZE)
        increment = size - stream.receive_window
        if increment * 2 < self.limits.stream_window:
            return False
        self._outgoing.append(frames.window_update(stream_id, increment))
        stream.receive_window = size
        return True

    def ping(self, payload: bytes) -> None:
        """Send PING with a payload of eight bytes, which `PingAckReceived` returns."""
        self._outgoing.append(frames.ping(payload, ack=False))

    def start_graceful_shutdown(self) -> None:
        """Ask the client to open no more streams; those that it opens meanwhile are accepted.

        `refuse_new_streams` completes the shutdown (RFC 9113 §6.8).
        """
        self._outgoing.append(frames.goaway(frames.MAX_STREAM_ID, ErrorCode.NO_ERROR))

    def refuse_new_streams(self, first_refused_id: int | None = None) -> None:
        """Refuse new streams from now on, unprocessed, so that the client can retry safely.

        The streams from `first_refused_id` on are not processed either, although they are open; the
        caller resets them.
        """
        table = self.streams
        last = table.highest_received_id
        if first_refused_id is not None:
            last = max(first_refused_id - 2, 0)
        table.max_accepted_id = min(last, table.max_accepted_id)
        self._outgoing.append(frames.goaway(table.max_accepted_id, ErrorCode.NO_ERROR))

    def close(self, error_code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Send GOAWAY, with the reason as debug data, and drop all streams without events."""
        if self.closed:
            return
        self.closed = True
        table = self.streams
        # Streams that were refused stay unprocessed: the id may not rise (RFC 9113 §6.8).
        last = min(table.highest_received_id, table.max_accepted_id)
        debug = reason.encode("utf-8", "replace")[:200]
        self._outgoing.append(frames.goaway(last, error_code, debug))
        for stream in self._by_id.values():
            table.count_failed(stream)
        self._by_id.clear()

    # -- receiving ---------------------------------------------------------------------------

    def receive_data(self, data: bytes | memoryview, now: float = 0.0, max_cost: int = 0) -> Events:
        """Process bytes received `now`, and return the events of the frames that they complete.

        Of a large DATA frame each part has an event. While one is incomplete, `data` may be a
        memoryview of at most `frame_reader.missing_data_size` bytes, which the event then has.

        Frames above `max_cost` are left in `frame_reader.unprocessed`, and processed by further
        calls with empty `data`. A frame costs 1, and 1 more for each KiB, or for each 16 bytes of a
        header block; 0 is no limit.
        """
        reader, receiver, cost = self.frame_reader, self._receiver, 0
        # A call of `Events`, which is a generic alias, takes 2,500 instructions.
        events: Events = []
        receiver.new_events = events
        if self.closed:
            reader.unprocessed = None
            return events
        self.abuse_limits.now = now
        on_data, on_headers, progress = receiver.on_data, receiver.on_headers, False
        try:
            received = reader.feed_or_continue(data)
            for type_, flags, stream_id, payload in received:
                progress = True
                try:
                    if type_ == DATA:
                        on_data(flags, stream_id, payload)
                    elif type_ == HEADERS:
                        on_headers(flags, stream_id, payload)
                    else:
                        receiver.on_control_frame(type_, flags, stream_id, payload)
                except StreamError as exc:
                    self._fail_stream(exc, events)
                if max_cost:
                    # A byte of a header block may be a whole field, as much work as a KiB of DATA.
                    cost += 1 + (len(payload) >> (4 if type_ == HEADERS else 10))
                    if cost >= max_cost:
                        reader.unprocessed = received
                        break
        except RemoteProtocolError as exc:
            reader.unprocessed = None
            self.close(exc.error_code, exc.reason)
            events.append(ConnectionFailed(exc.error_code, exc.reason, exc.is_abuse))
        if reader.has_incomplete_frame or reader.incomplete_since is not None:
            reader.update_incomplete_since(now, progress=progress)
        return events

    def _fail_stream(self, exc: StreamError, events: Events) -> None:
        self.abuse_limits.charge_reset()
        table = self.streams
        stream = self._by_id.pop(exc.stream_id, None)
        if stream is None or stream.state is not _CLOSED:
            self._outgoing.append(frames.rst_stream(exc.stream_id, exc.error_code))
        table.resets.add(exc.stream_id)
        if stream is not None:
            table.count_failed(stream)
            events.append(StreamReset(exc.stream_id, exc.error_code, False, exc.reason))
