"""TLS configuration of clients and servers."""

from __future__ import annotations

from pathlib import Path

import attrs

from meshtrio.util.record import Record


@attrs.frozen(eq=False, repr=False)
class ClientTlsConfig(Record):
    """TLS configuration of a client. All files are PEM."""

    ca: Path | None = None
    """Certificate authorities to trust; by default those of the system."""
    certificate: Path | None = None
    """The client's certificate chain, if the server requires one."""
    key: Path | None = None
    """The private key of `certificate`; by default it is in the same file."""
    server_name: str | None = None
    """The name that the server's certificate must have; by default the host of the address."""


@attrs.frozen(eq=False, repr=False)
class ServerTlsConfig(Record):
    """TLS configuration of a server. All files are PEM."""

    certificate: Path
    """The server's certificate chain."""
    key: Path
    """The private key of `certificate`."""
    client_ca: Path | None = None
    """Certificate authorities of client certificates; by default clients need none."""
