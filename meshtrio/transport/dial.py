"""Connecting to an endpoint: a socket, and TLS on it where that is wanted."""

from __future__ import annotations

import ssl

import attrs
import trio

from meshtrio.discovery.endpoint import connect_socket, get_host
from meshtrio.transport.tls import TlsTransport
from meshtrio.transport.transport import SocketTransport, Transport
from meshtrio.util.address import ClientTlsConfig
from meshtrio.util.regular_files import copy_pem_to_memfd


@attrs.frozen
class ClientTls:
    """How to speak TLS to a server: its side of the context, and the name its certificate bears.

    By default that is the host of the address.
    """

    context: ssl.SSLContext
    server_hostname: str | None = None

    @classmethod
    def load(cls, config: ClientTlsConfig) -> ClientTls:
        """Read the files. Raises OSError, of which ssl.SSLError is a kind."""
        with (
            copy_pem_to_memfd(config.ca) as ca,
            copy_pem_to_memfd(config.certificate) as certificate,
            copy_pem_to_memfd(config.key) as key,
        ):
            context = ssl.create_default_context(cafile=ca)
            if certificate is not None:
                context.load_cert_chain(certificate, key)
        return cls(context, config.server_name)


async def dial(
    address: str,
    tls: ClientTls | ClientTlsConfig | None,
    allowed_uids: frozenset[int] | None = None,
    *,
    backlog_timeout: float = 0.0,
) -> Transport:
    """Connect; the handshake is still to be done.

    Args:
        address: `unix:/path` or `tcp:host:port`.
        tls: how to speak TLS there, if it is to be spoken.
        owners: the uids of which a Unix socket's server has to have one; any by default.
        patience: Seconds to wait for room in a full backlog, see `endpoint.connect`.

    Raises:
        WrongServerError: another user serves there.
        OSError: nothing listens there, or the TLS files cannot be used.
        ValueError: an address of another form.
    """
    if isinstance(tls, ClientTlsConfig):
        try:
            tls = await trio.to_thread.run_sync(ClientTls.load, tls, abandon_on_cancel=True)
        except OSError as exc:
            reason = f"its TLS files cannot be used: {exc.strerror or exc}"
            raise OSError(exc.errno, reason) from None
    sock = await connect_socket(address, allowed_uids, backlog_timeout=backlog_timeout)
    if tls is None:
        return SocketTransport(sock)
    hostname = tls.server_hostname or get_host(address)
    return TlsTransport(sock, tls.context, server_side=False, server_hostname=hostname)
