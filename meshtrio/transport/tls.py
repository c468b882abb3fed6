"""TLS under a connection: an `ssl.SSLContext` over a socket transport; contexts of PEM files."""

from __future__ import annotations

import contextlib
import socket
import ssl
from pathlib import Path
from typing import Any, overload

from meshtrio.transport.transport import Buffer, Transport
from meshtrio.util.descriptors import copy_pem_to_memfd
from meshtrio.util.tls_config import ClientTlsConfig

_PemFile = Path | str | None
_ALPN_PROTOCOL = "h2"
_MAX_RECORD_SIZE = 16 * 1024
"""Maximum size of the plaintext of one TLS record, in bytes (RFC 8446 §5.1)."""


class TlsTransport(Transport):
    """A transport with TLS, which owns its socket. `handshake` must be called first."""

    can_poll = False  # What is read is ciphertext.

    def __init__(
        self,
        sock: socket.socket,
        context: ssl.SSLContext,
        *,
        server_side: bool,
        server_hostname: str | None = None,
    ) -> None:
        """Start TLS; a client verifies the server's certificate against `server_hostname`."""
        super().__init__(sock)
        context.set_alpn_protocols([_ALPN_PROTOCOL])
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl_object: ssl.SSLObject = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self._ciphertext = b""

    async def handshake(self) -> None:
        """Negotiate keys and HTTP/2. Raises OSError, or its subclass ssl.SSLError."""
        while True:
            try:
                self.ssl_object.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self._flush_ciphertext()
                await self._receive_ciphertext()
            except ssl.SSLError:
                self._send_ciphertext()  # the alert, with the reason for the peer
                raise
        await self._flush_ciphertext()
        if self.ssl_object.selected_alpn_protocol() != _ALPN_PROTOCOL:
            raise OSError(0, "the peer does not speak HTTP/2 over TLS (ALPN h2)")

    @overload
    async def receive(self, max_bytes: int) -> bytes: ...

    @overload
    async def receive(self, max_bytes: int, buffer: memoryview) -> memoryview: ...

    async def receive(self, max_bytes: int, buffer: memoryview | None = None) -> Buffer:
        """Receive as `Transport` does; an end without close_notify counts as an end."""
        while True:
            try:
                if buffer is not None:
                    size: Any = self.ssl_object.read(len(buffer), buffer)
                    return buffer[:size]
                return self.ssl_object.read(max_bytes)
            except ssl.SSLWantReadError:
                self._send_ciphertext()
                await self._receive_ciphertext()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return b""

    async def _receive_ciphertext(self) -> None:
        data = await super().receive(4 * _MAX_RECORD_SIZE)
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    def try_send(self, buffers: list[Buffer]) -> int:
        """Encrypt and send what the kernel takes now; return the bytes taken. Raises OSError."""
        taken = 0
        self._send_ciphertext()
        for buffer in buffers:
            view = memoryview(buffer)
            while view and not self._ciphertext:
                written = self.ssl_object.write(view[:_MAX_RECORD_SIZE])
                taken += written
                view = view[written:]
                self._send_ciphertext()
        return taken

    def _send_ciphertext(self) -> None:
        """Send pending ciphertext, as far as the kernel takes it."""
        if self._outgoing.pending:
            self._ciphertext += self._outgoing.read()
        if self._ciphertext:
            sent = super().try_send([self._ciphertext])
            self._ciphertext = self._ciphertext[sent:]
            self.has_pending_data = bool(self._ciphertext)

    async def _flush_ciphertext(self) -> None:
        self._send_ciphertext()
        while self._ciphertext:
            await self.wait_writable()
            self._send_ciphertext()

    def send_eof(self) -> None:
        """Send close_notify and shut down the sending side. Raises OSError."""
        with contextlib.suppress(ssl.SSLError):
            self.ssl_object.unwrap()
        self._send_ciphertext()
        super().send_eof()


def make_client_ssl_context(config: ClientTlsConfig) -> ssl.SSLContext:
    """Make a context for clients from the PEM files of a config; blocks.

    Raises:
        OSError: A file cannot be read, or, as its subclass ssl.SSLError, cannot be used.
    """
    return _make_ssl_context(ssl.Purpose.SERVER_AUTH, config.certificate, config.key, config.ca)


def make_server_ssl_context(
    certificate: Path | str, key: _PemFile, client_ca: _PemFile
) -> ssl.SSLContext:
    """Make a context for servers from PEM files.

    Args:
        certificate: The server's certificate chain.
        key: The private key, if it is not in the same file.
        client_ca: The CA that must have signed clients' certificates, for mutual TLS.

    Raises:
        OSError: A file cannot be read, or, as its subclass ssl.SSLError, cannot be used.
    """
    context = _make_ssl_context(ssl.Purpose.CLIENT_AUTH, certificate, key, client_ca)
    if client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _make_ssl_context(
    purpose: ssl.Purpose, certificate: _PemFile, key: _PemFile, ca: _PemFile
) -> ssl.SSLContext:
    with (
        copy_pem_to_memfd(certificate) as certificate_file,
        copy_pem_to_memfd(key) as key_file,
        copy_pem_to_memfd(ca) as ca_file,
    ):
        context = ssl.create_default_context(purpose, cafile=ca_file)
        if certificate_file is not None:
            context.load_cert_chain(certificate_file, key_file)
    return context
