"""The stream to the plugin: what comes on it goes to the call that it belongs to."""

from __future__ import annotations

from typing import Protocol

import attrs
import purerpc

from meshtrio.gateway.proxied_streams import MAX_SMALL_CHUNK, ProxiedStream
from meshtrio.grpc.headers import ResponseHeaders, Trailers


class ResponseReceiver(Protocol):
    """The part of a proxied call that its upstream stream uses."""

    pending_headers: bytes
    """Encoded response headers that are not sent yet; empty if there are none."""
    buffered_size: int
    """Number of bytes that wait for the client."""

    def on_response_headers(self, headers: ResponseHeaders) -> None:
        """Keep response headers until `flush_response_headers`, or until the response is whole."""

    def flush_response_headers(self) -> None:
        """Send the response headers that are kept."""

    def on_response_data(self, data: bytes) -> None:
        """Send DATA of the response."""

    def try_send_whole_response(self, data: bytes, trailers: Trailers) -> bool:
        """Send headers, DATA and status at once; return False, with no effect, if that fails."""

    def on_response_end(self, trailers: Trailers | None) -> None:
        """End the call; `trailers` is None if the plugin has sent none."""

    def on_upstream_reset(self, error: purerpc.RpcFailedError) -> None:
        """Handle that the plugin has reset the stream, or that its connection is lost."""

    def on_request_taken(self) -> None:
        """Let the client send more."""


@attrs.define(eq=False, repr=False, weakref_slot=False)
class UpstreamStream(ProxiedStream):
    """The stream to the plugin.

    Response headers and small DATA are kept until the end of the current read: nearly all responses
    are whole by then, and one write of all their frames takes a third of the work of three.
    """

    call: ResponseReceiver | None = None
    """The call that the stream belongs to; None once it is over."""

    def on_headers(self, headers: ResponseHeaders) -> None:
        if self.call is not None:
            self.call.on_response_headers(headers)
            # `release_window` sends the headers if nothing follows them in this read.
            self.connection.streams_with_data.add(self)

    def on_data(self, data: bytes, end_stream: bool) -> None:
        if len(data) < MAX_SMALL_CHUNK:
            self._keep_small_chunk(data)
        else:
            self._flush_small_chunks()
            self._forward_data(data)
        if end_stream:
            self.on_end_stream(None)

    def _flush_small_chunks(self) -> None:
        if self.call is not None and self.call.pending_headers:
            self.call.flush_response_headers()
        super()._flush_small_chunks()

    def _forward_data(self, data: bytes, *, end_stream: bool = False) -> None:
        if self.call is not None:
            self.call.on_response_data(data)

    def on_end_stream(self, trailers: Trailers | None) -> None:
        call, chunks = self.call, self._small_chunks
        if call is not None and call.pending_headers and trailers is not None:
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            if call.try_send_whole_response(data, trailers):
                return
        self._flush_small_chunks()
        self.remote_closed, self.trailers = True, trailers
        if self.call is not None:
            self.call.on_response_end(trailers)

    def fail(self, error: purerpc.RpcFailedError) -> None:
        """Report that the plugin has reset the call, or that its connection is lost."""
        self._flush_small_chunks()
        if self.error is None and not self.remote_closed:
            self.error = error
            if self.call is not None:
                self.call.on_upstream_reset(error)

    def _on_buffer_taken(self) -> None:
        if self.call is not None:
            self.call.on_request_taken()

    def _get_unsent_size(self) -> int:
        return 0 if self.call is None else self.call.buffered_size
