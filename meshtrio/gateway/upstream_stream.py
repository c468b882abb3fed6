"""The stream to the plugin: what comes on it goes to the call that it belongs to."""

from __future__ import annotations

from typing import Protocol

import purerpc

from meshtrio.gateway.proxied_streams import MAX_SMALL_CHUNK, ProxiedStream
from meshtrio.grpc.headers import ResponseHeaders, Trailers


class ResponseReceiver(Protocol):
    """The part of a proxied call that its upstream stream uses."""

    buffered_size: int
    """Number of bytes that wait for the client."""

    def on_response(self, headers: ResponseHeaders, data: bytes, trailers: Trailers) -> bool:
        """Send a whole response at once; return False, with no effect, if that fails."""

    def on_response_headers(self, headers: ResponseHeaders) -> None:
        """Send response headers."""

    def on_response_data(self, data: bytes) -> None:
        """Send DATA of the response."""

    def on_response_end(self, trailers: Trailers | None) -> None:
        """End the call; `trailers` is None if the plugin has sent none."""

    def on_upstream_reset(self, error: purerpc.RpcFailedError) -> None:
        """Handle that the plugin has reset the stream, or that its connection is lost."""

    def on_request_taken(self) -> None:
        """Let the client send more."""


class UpstreamStream(ProxiedStream):
    """The stream to the plugin.

    Response headers and small DATA are kept until the end of the current read: nearly all responses
    are whole by then, and one write of all their frames takes a third of the work of three.
    """

    call: ResponseReceiver | None = None
    """The call that the stream belongs to; None once it is over."""
    _kept_headers: ResponseHeaders | None = None
    """Response headers that the call has not got yet; None if there are none."""

    def on_headers(self, headers: ResponseHeaders) -> None:
        self._kept_headers = headers
        # `release_window` passes them on if nothing follows them in this read.
        self.connection.streams_with_data.add(self)

    def on_data(self, data: bytes, end_stream: bool) -> None:
        """Pass DATA on; small DATA waits for more of the current read."""
        if len(data) < MAX_SMALL_CHUNK:
            self._keep_small_chunk(data)
        else:
            self._flush_small_chunks()
            self._forward_data(data)
        if end_stream:
            self.on_end_stream(None)

    def _flush_small_chunks(self) -> None:
        headers, call = self._kept_headers, self.call
        if headers is not None:
            self._kept_headers = None
            if call is not None:
                call.on_response_headers(headers)
        super()._flush_small_chunks()

    def _forward_data(self, data: bytes, *, end_stream: bool = False) -> None:
        if self.call is not None:
            self.call.on_response_data(data)

    def on_end_stream(self, trailers: Trailers | None) -> None:
        """End the call with the status of the plugin."""
        headers, call, chunks = self._kept_headers, self.call, self._small_chunks
        if headers is not None and call is not None and trailers is not None:
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            if call.on_response(headers, data, trailers):
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
