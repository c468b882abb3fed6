"""Addresses of sockets, `unix:/path` or `tcp:host:port`, and the files for speaking TLS there."""

from __future__ import annotations

from pathlib import Path

import attrs


@attrs.frozen
class Address:
    """`path` of a Unix socket, or `host` and `port`."""

    path: str = ""
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read `unix:/path`, `unix:///path`, `tcp:host:port` or `tcp://host:port`.

        An IPv6 address stands in brackets. Raises ValueError for anything else.
        """
        kind, _, rest = text.partition(":")
        rest = rest.removeprefix("//")
        if kind == "unix" and rest.startswith("/"):
            return cls(path=rest)
        host, _, port = rest.rpartition(":")
        host = host.strip("[]")
        if kind == "tcp" and host and port.isascii() and port.isdigit() and int(port) < 65536:
            return cls(host=host, port=int(port))
        raise ValueError(f"{text!r} is neither unix:/path nor tcp:host:port")

    @property
    def is_unix(self) -> bool:
        """On this machine whatever its network is."""
        return bool(self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"


@attrs.frozen
class ClientTlsConfig:
    """How a client speaks TLS to a server; the files are PEM."""

    ca: Path | None = None
    """Whom to trust; the system's authorities by default."""
    certificate: Path | None = None
    """The client's own, for a server that asks for one."""
    key: Path | None = None
    """Of the certificate, where it is not in the same file."""
    server_name: str | None = None
    """What the server's certificate bears; by default the host of the address."""


@attrs.frozen
class ServerTlsConfig:
    """How a server speaks TLS; the files are PEM."""

    certificate: Path
    """The server's own, with those between it and the authority."""
    key: Path
    """Of the certificate."""
    client_ca: Path | None = None
    """Who has to have signed the certificates of clients; without it they need none."""
