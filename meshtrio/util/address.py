"""Socket addresses: `unix:/path` or `tcp:host:port`."""

from __future__ import annotations

from meshtrio.util.record import FrozenRecord


class Address(FrozenRecord):
    """The address of a Unix socket, or of a TCP port."""

    path: str = ""
    """The path of a Unix socket; "" for TCP."""
    host: str = ""
    """The host name or IP address, without brackets; "" for a Unix socket."""
    port: int = 0
    """The TCP port; 0 for a Unix socket."""

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse `unix:/path`, `unix:///path`, `tcp:host:port` or `tcp://host:port`.

        An IPv6 address has to be in brackets. Raises ValueError.
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
        """Whether it is a Unix socket, which is always on this machine."""
        return bool(self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"tcp:{host}:{self.port}"
