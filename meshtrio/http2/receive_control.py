"""Received frames other than DATA and HEADERS (RFC 9113 §6.3 to §6.9)."""

from __future__ import annotations

import attrs

from meshtrio.http2 import frames
from meshtrio.http2.abuse_limits import AbuseLimits
from meshtrio.http2.errors import ErrorCode, RemoteProtocolError, StreamError, error_code_name
from meshtrio.http2.events import (
    Events,
    GoAwayReceived,
    PingAckReceived,
    SettingsReceived,
    StreamReset,
    WindowUpdated,
)
from meshtrio.http2.flow_control import (
    ConnectionWindows,
    change_initial_send_window,
    increase_stream_send_window,
)
from meshtrio.http2.frames import FrameType
from meshtrio.http2.receive_headers import strip_priority
from meshtrio.http2.settings import PeerSettings
from meshtrio.http2.streams import StreamTable


@attrs.define(eq=False)
class ControlFrameReceiver:
    """Applies frames to the settings, windows and streams of a connection, and makes events."""

    _settings: PeerSettings
    _windows: ConnectionWindows
    _streams: StreamTable
    _abuse: AbuseLimits
    _outgoing: list[bytes | memoryview]
    """Frames to send, to which this appends."""
    _is_client: bool
    _resets_received: int = attrs.field(default=0, init=False)

    def on_frame(
        self, type_: int, flags: int, stream_id: int, payload: bytes, events: Events
    ) -> None:
        """Process one frame. Raises StreamError and RemoteProtocolError."""
        handler = _HANDLERS.get(type_)
        if handler is None:
            self._abuse.charge_control_frame("frames of unknown types")
        else:
            handler(self, flags, stream_id, payload, events)

    def _on_priority(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if not stream_id:
            raise RemoteProtocolError("PRIORITY on stream 0")
        self._abuse.charge_control_frame("PRIORITY frames")
        if len(payload) != 5:
            reason = "PRIORITY is not 5 bytes"
            if self._streams.is_idle(stream_id):
                # An idle stream cannot be reset.
                raise RemoteProtocolError(reason, ErrorCode.FRAME_SIZE_ERROR)
            raise StreamError(stream_id, reason, ErrorCode.FRAME_SIZE_ERROR)
        strip_priority(stream_id, payload)

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        streams = self._streams
        if not stream_id or streams.is_idle(stream_id):
            raise RemoteProtocolError("RST_STREAM on an idle stream")
        if len(payload) != 4:
            raise RemoteProtocolError("RST_STREAM is not 4 bytes", ErrorCode.FRAME_SIZE_ERROR)
        self._resets_received += 1
        stream_count = streams.next_id // 2 if self._is_client else streams.received_count
        if self._resets_received > stream_count:
            # More than one per stream; a single one may cross the end of its stream.
            self._abuse.charge_control_frame("RST_STREAM frames")
        stream = streams.by_id.get(stream_id)
        if stream is None:
            return
        # Late frames of a client are answered, as RFC 9113 §5.1 requires. Those of a server are
        # not, because servers count received resets, and this would be a second one.
        streams.reset(stream, reply_due=not self._is_client)
        code = frames.read_u32(payload)[0]
        events.append(StreamReset(stream_id, code, remote_reset=True, reason=error_code_name(code)))
        self._abuse.charge_reset(self._abuse.reset_cost(stream, self._abuse.now))

    def _on_settings(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if stream_id:
            raise RemoteProtocolError("SETTINGS on a stream")
        if flags & frames.ACK:
            if payload:
                raise RemoteProtocolError("SETTINGS ACK with a payload", ErrorCode.FRAME_SIZE_ERROR)
            return
        if len(payload) % 6:
            raise RemoteProtocolError(
                "SETTINGS length is not a multiple of 6", ErrorCode.FRAME_SIZE_ERROR
            )
        self._abuse.charge_control_frame("SETTINGS frames")
        window_change = self._settings.apply(payload)
        if window_change:
            change_initial_send_window(self._streams.by_id.values(), window_change)
        self._outgoing.append(frames.SETTINGS_ACK)
        events.append(SettingsReceived(window_change > 0 and bool(self._streams.by_id)))

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        raise RemoteProtocolError("PUSH_PROMISE, and push is disabled")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if stream_id:
            raise RemoteProtocolError("PING on a stream")
        if len(payload) != 8:
            raise RemoteProtocolError("PING is not 8 bytes", ErrorCode.FRAME_SIZE_ERROR)
        if flags & frames.ACK:
            self._abuse.charge_control_frame("PING answers")
            events.append(PingAckReceived(payload))
        else:
            self._abuse.charge_control_frame("PING frames")
            self._outgoing.append(frames.ping(payload, ack=True))

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if stream_id:
            raise RemoteProtocolError("GOAWAY on a stream")
        if len(payload) < 8:
            raise RemoteProtocolError("GOAWAY is too short", ErrorCode.FRAME_SIZE_ERROR)
        self._abuse.charge_control_frame("GOAWAY frames")
        last, code = frames.read_two_u32(payload)
        last &= 0x7FFFFFFF
        if self._streams.peer_last_stream_id is not None:
            last = min(last, self._streams.peer_last_stream_id)
        self._streams.peer_last_stream_id = last
        events.append(GoAwayReceived(last, code, payload[8:]))

    def _on_window_update(self, flags: int, stream_id: int, payload: bytes, events: Events) -> None:
        if len(payload) != 4:
            raise RemoteProtocolError("WINDOW_UPDATE is not 4 bytes", ErrorCode.FRAME_SIZE_ERROR)
        self._abuse.charge_control_frame("WINDOW_UPDATE frames")
        increment = frames.read_u32(payload)[0] & 0x7FFFFFFF
        if not stream_id:
            self._windows.increase_send(increment)
        elif (stream := self._streams.by_id.get(stream_id)) is not None:
            increase_stream_send_window(stream, increment)
        elif self._streams.is_idle(stream_id):
            raise RemoteProtocolError("WINDOW_UPDATE on an idle stream")
        else:
            return
        events.append(WindowUpdated(stream_id))


# CONTINUATION is missing, as `FrameReader` joins header blocks.
_HANDLERS = {
    int(FrameType.PRIORITY): ControlFrameReceiver._on_priority,
    int(FrameType.RST_STREAM): ControlFrameReceiver._on_rst_stream,
    int(FrameType.SETTINGS): ControlFrameReceiver._on_settings,
    int(FrameType.PUSH_PROMISE): ControlFrameReceiver._on_push_promise,
    int(FrameType.PING): ControlFrameReceiver._on_ping,
    int(FrameType.GOAWAY): ControlFrameReceiver._on_goaway,
    int(FrameType.WINDOW_UPDATE): ControlFrameReceiver._on_window_update,
}
