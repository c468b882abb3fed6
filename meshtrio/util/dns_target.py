"""Names in DNS as addresses of a service: `dns:///host:port` and `dns+srv:///name`.

Source: gRPC's naming.md, for the first form; the second one is of the same kind for SRV records
(RFC 2782), which gRPC itself does not look up.
"""

from __future__ import annotations

import ipaddress
import re
from contextlib import suppress

from meshtrio.util.address import Address
from meshtrio.util.record import FrozenRecord

DNS_PORT = 53
"""The port of a name server of which only the address is given."""
_MAX_NAME_LENGTH = 253
"""Characters of a name, by RFC 1035 §2.3.4 without the length and the root of the wire format."""
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_FORMS = "dns:///host:port or dns+srv:///name"


class DnsTarget(FrozenRecord):
    """A name whose addresses, or whose SRV records, are the endpoints of a service."""

    name: str
    """The name to look up, without its port; relative to the search domains unless it ends with a
    dot."""
    port: int = 0
    """The port of each address; 0 if SRV records are looked up, which have ports."""
    server: str = ""
    """The name server to ask, `address:port`; "" for those that are configured."""

    @classmethod
    def parse(cls, text: str) -> DnsTarget:
        """Parse `dns:///host:port`, `dns:host:port` or `dns+srv:///name`.

        Between the second and the third slash there may be a name server. Raises ValueError.
        """
        scheme, _, rest = text.partition(":")
        if scheme not in ("dns", "dns+srv"):
            raise ValueError(f"{text!r} is not {_FORMS}")
        authority, path = "", rest
        if rest.startswith("//"):
            authority, slash, path = rest.removeprefix("//").partition("/")
            if not slash:
                hint = f"{scheme}:///{authority}"
                raise ValueError(f"{text!r} has two slashes and no third: is {hint} meant?")
        try:
            server = authority and _format_name_server(*parse_name_server(authority))
            name, port = (path, 0) if scheme == "dns+srv" else _split_port(path)
            _check_name(name)
        except ValueError as exc:
            raise ValueError(f"{text!r}: {exc}") from None
        return cls(name=name, port=port, server=server)

    @property
    def is_srv(self) -> bool:
        """Whether SRV records are looked up."""
        return not self.port

    @property
    def server_name(self) -> str:
        """The name that certificates of the servers must have: that of the config.

        Of an SRV name it is the domain, without `_service._proto`: the hosts that SRV records name
        come from DNS, and whoever can forge its answers could name a host of their own. Source:
        RFC 9525 §6.
        """
        labels = self.name.rstrip(".").split(".")
        while self.is_srv and len(labels) > 1 and labels[0].startswith("_"):
            del labels[0]
        return ".".join(labels)

    def __str__(self) -> str:
        scheme, port = ("dns+srv", "") if self.is_srv else ("dns", f":{self.port}")
        return f"{scheme}://{self.server}/{self.name}{port}"


def is_dns_target(text: str) -> bool:
    """Return whether an endpoint of a config is a name to look up, rather than an address."""
    return text.startswith(("dns:", "dns+srv:"))


def check_endpoint(text: str) -> None:
    """Raise ValueError if a text is neither an address nor a name in DNS."""
    if is_dns_target(text):
        DnsTarget.parse(text)
        return
    try:
        Address.parse(text)
    except ValueError as exc:
        raise ValueError(f"{exc}, nor a name in DNS, {_FORMS}") from None


def parse_name_server(text: str) -> tuple[str, int]:
    """Return the IP address and the port of a name server; the port may be missing.

    Raises ValueError.
    """
    address, port = text.strip("[]"), DNS_PORT
    with suppress(ValueError):
        if not _is_ip_address(address):
            host, port = _split_port(text)
            address = host.strip("[]")
    if not _is_ip_address(address):
        raise ValueError(f"{text!r} is not the IP address of a name server, as in 10.0.0.53:53")
    return address, port


def _format_name_server(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _split_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host and port.isascii() and port.isdigit() and 0 < int(port) < 65536:
        return host, int(port)
    raise ValueError(f"{text!r} has no port between 1 and 65535, as in host:7443")


def _is_ip_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_name(name: str) -> None:
    if _is_ip_address(name.strip("[]")):
        raise ValueError(f"{name} is an address, not a name; write tcp:host:port for it")
    labels = name.removesuffix(".").split(".")
    if len(name) > _MAX_NAME_LENGTH + 1 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(
            f"{name[: _MAX_NAME_LENGTH + 2]!r} is not a name in DNS: letters, digits, '-' and '_' "
            "in labels of at most 63, separated by dots (write other letters as xn--…)"
        )
