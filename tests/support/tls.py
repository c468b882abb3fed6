"""Certificates of a test's own authority, and servers on TCP that use them."""

from __future__ import annotations

import socket
import ssl
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import trio
import trustme

from meshtrio.rpc.server import Server
from meshtrio.util.tls_config import ClientTlsConfig
from tests.support.connection_pairs import CallbackServicer
from tests.support.handlers import handle_chat, handle_echo, handle_repeat

TEST_CA = trustme.CA()
_folder = tempfile.TemporaryDirectory()


def server_context(*, mutual: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    TEST_CA.issue_cert("localhost").configure_cert(context)
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        TEST_CA.configure_trust(context)
    return context


def client_tls(
    server_name: str = "localhost",
    *,
    trusted_ca: trustme.CA = TEST_CA,
    client_ca: trustme.CA | None = None,
) -> ClientTlsConfig:
    """Make the TLS configuration of a client and its files; `client_ca` signs a certificate."""
    folder = Path(tempfile.mkdtemp(dir=_folder.name))
    trusted_ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    config = ClientTlsConfig(folder / "ca.pem", server_name=server_name)
    if client_ca is None:
        return config
    certificate = folder / "client.pem"
    issued = client_ca.issue_cert("client@example.org")
    issued.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    return attrs.evolve(config, certificate=certificate)


@asynccontextmanager
async def serve_on_tcp(
    context: ssl.SSLContext | None, servicer: CallbackServicer | None = None
) -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    server = Server(
        servicer or CallbackServicer(Echo=handle_echo, Repeat=handle_repeat, Chat=handle_chat)
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(server.serve, listener, ssl_context=context))
        yield f"tcp:127.0.0.1:{port}"
        nursery.cancel_scope.cancel()
