"""Connecting to an endpoint: a socket, and TLS on it where that is wanted."""

from __future__ import annotations

import ssl

import attrs
import trio

from meshtrio.address import TlsFiles
from meshtrio.client.endpoint import connect, host_of
from meshtrio.regular_files import copied
from meshtrio.rpc.tls import TlsTransport
from meshtrio.rpc.transport import SocketTransport, Transport


@attrs.frozen
class Tls:
    """How to speak TLS to a server: its side of the context, and the name its certificate bears.

    By default that is the host of the address.
    """

    context: ssl.SSLContext
    server_hostname: str | None = None

    @classmethod
    def of(cls, files: TlsFiles) -> Tls:
        """Read the files. Raises OSError, of which ssl.SSLError is a kind."""
        with (
            copied(files.ca) as ca,
            copied(files.certificate) as certificate,
            copied(files.key) as key,
        ):
            context = ssl.create_default_context(cafile=ca)
            if certificate is not None:
                context.load_cert_chain(certificate, key)
        return cls(context, files.server_name)


async def dial(
    address: str,
    tls: Tls | TlsFiles | None,
    owners: frozenset[int] | None = None,
    *,
    patience: float = 0.0,
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
    if isinstance(tls, TlsFiles):
        try:
            tls = await trio.to_thread.run_sync(Tls.of, tls, abandon_on_cancel=True)
        except OSError as exc:
            reason = f"its TLS files cannot be used: {exc.strerror or exc}"
            raise OSError(exc.errno, reason) from None
    sock = await connect(address, owners, patience=patience)
    if tls is None:
        return SocketTransport(sock)
    hostname = tls.server_hostname or host_of(address)
    return TlsTransport(sock, tls.context, server_side=False, server_hostname=hostname)
