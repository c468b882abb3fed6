"""Rejecting accepted sockets with a GOAWAY, before there is a connection."""

from __future__ import annotations

import contextlib
import socket

import trio

from meshtrio.http2 import frames
from meshtrio.http2.errors import ErrorCode

_MAX_REJECTING = 64
"""Number of rejected connections that are kept open until the client has read the reason."""
_REJECT_TIMEOUT = 1.0
"""Seconds for which a rejected connection is kept open."""
_MAX_DISCARDED_SIZE = 64 * 1024
"""Size of data, in bytes, after which a rejected connection is closed anyway."""


class ConnectionRejecter:
    """Sends rejected clients the reason, and closes their sockets."""

    def __init__(self) -> None:
        self._rejections_in_progress = 0

    def reject_now(self, sock: socket.socket, reason: str, *, encrypted: bool) -> None:
        """Send the reason for a rejection as far as that does not block, and close."""
        with sock, contextlib.suppress(OSError):
            if not encrypted:
                sock.setblocking(False)
                sock.send(_rejection_frames(reason))

    async def reject(self, sock: socket.socket, reason: str, *, encrypted: bool) -> None:
        """Send the reason for a rejection in a GOAWAY, and close.

        Closing a TCP socket with unread bytes discards what the client has not read yet, so this
        waits a moment for the client to close. A socket for TLS is closed without a GOAWAY, which
        its client would take for a broken handshake.
        """
        if encrypted or self._rejections_in_progress >= _MAX_REJECTING:
            self.reject_now(sock, reason, encrypted=encrypted)
            return
        self._rejections_in_progress += 1
        try:
            with trio.socket.from_stdlib_socket(sock) as peer, contextlib.suppress(OSError):
                with trio.move_on_after(_REJECT_TIMEOUT):
                    await peer.send(_rejection_frames(reason))
                    peer.shutdown(socket.SHUT_WR)
                    discarded = 0
                    while discarded < _MAX_DISCARDED_SIZE and (
                        data := await peer.recv(_MAX_DISCARDED_SIZE)
                    ):
                        discarded += len(data)
        finally:
            self._rejections_in_progress -= 1


def _rejection_frames(reason: str) -> bytes:
    goaway = frames.goaway(0, ErrorCode.ENHANCE_YOUR_CALM, reason.encode())
    return frames.settings({}) + goaway
