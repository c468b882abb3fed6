"""TLS under a connection: the user's `ssl.SSLContext` over a socket transport, without blocking."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path

from meshtrio.regular_files import copied
from meshtrio.rpc.peer import Peer, peer_of
from meshtrio.rpc.transport import Buffer, SocketTransport

_ALPN = "h2"
_RECORD = 16 * 1024
"""Plaintext that is encrypted at a time: the most that one TLS record holds (RFC 8446 §5.1)."""


class TlsTransport:
    """Like `SocketTransport`, with everything encrypted. `handshake` comes first."""

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
    ) -> None:
        """`server_hostname` is what a client holds the server's certificate to."""
        context.set_alpn_protocols([_ALPN])
        self._sock = sock
        self._raw = SocketTransport(sock)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
        )
        self._ciphertext = b""

    async def handshake(self) -> None:
        """Agree on keys and on HTTP/2. Raises OSError, of which ssl.SSLError is a kind."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._send_all()
                await self._feed()
            except ssl.SSLError:
                self._push()  # the alert, which tells the peer why
                raise
        await self._send_all()
        if self._tls.selected_alpn_protocol() != _ALPN:
            raise OSError(0, "the peer does not speak HTTP/2 over TLS (ALPN h2)")

    async def receive(self, most: int) -> bytes:
        """As of `SocketTransport`; an end without close_notify counts as one with it."""
        while True:
            try:
                return self._tls.read(most)
            except ssl.SSLWantReadError:
                self._push()
                await self._feed()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    async def _feed(self) -> None:
        data = await self._raw.receive(4 * _RECORD)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    @property
    def pending(self) -> bool:
        """True while ciphertext of what was taken waits for the kernel."""
        return bool(self._ciphertext)

    def try_send(self, buffers: list[Buffer]) -> int:
        """Encrypt and write as the kernel takes it, give the bytes taken. Raises OSError."""
        taken = 0
        self._push()
        for buffer in buffers:
            view = memoryview(buffer)
            while view and not self._ciphertext:
                written = self._tls.write(view[:_RECORD])
                taken += written
                view = view[written:]
                self._push()
        return taken

    def _push(self) -> None:
        """Write ciphertext, as far as the kernel takes it."""
        if self._outgoing.pending:
            self._ciphertext += self._outgoing.read()
        if self._ciphertext:
            self._ciphertext = self._ciphertext[self._raw.try_send([self._ciphertext]) :]

    async def _send_all(self) -> None:
        self._push()
        while self._ciphertext:
            await self._raw.wait_writable()
            self._push()

    async def wait_writable(self) -> None:
        await self._raw.wait_writable()

    def peer(self) -> Peer:
        return peer_of(self._sock, self._tls.getpeercert())

    @property
    def sock(self) -> socket.socket:
        return self._sock

    @property
    def tls(self) -> ssl.SSLObject | None:
        return self._tls

    def end(self) -> None:
        """Send close_notify and say that nothing more will be sent. Raises OSError."""
        with contextlib.suppress(ssl.SSLError):
            self._tls.unwrap()
        self._push()
        self._raw.end()

    def close(self) -> None:
        self._raw.close()


def server_context(
    certificate: Path | str, key: Path | str | None, client_ca: Path | str | None
) -> ssl.SSLContext:
    """A server's side from PEM files; with `client_ca` clients need a certificate it has signed.

    Raises OSError, of which ssl.SSLError is a kind.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with (
        copied(certificate) as certificate_file,
        copied(key) as key_file,
        copied(client_ca) as ca_file,
    ):
        assert certificate_file is not None
        context.load_cert_chain(certificate_file, key_file)
        if ca_file is not None:
            context.load_verify_locations(ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    return context
