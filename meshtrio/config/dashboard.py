"""The config of the dashboard."""

from __future__ import annotations

import re
from enum import Enum
from ipaddress import ip_address

import attrs
from attrs.validators import deep_iterable

from meshtrio.config.telemetry import parse_host_port
from meshtrio.config.validators import parsed_by, require, to_strings
from meshtrio.util.address import Address
from meshtrio.util.tls_config import ServerTlsConfig

_HOST_NAME = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?"
    r"(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*"
)
_is_host = require(
    lambda name: _HOST_NAME.fullmatch(name) or is_ip_address(name),
    "must be a host name or an IP address, without a port, not {!r}",
)


def is_ip_address(host: str) -> bool:
    """Return whether a text is an IP address, without brackets."""
    try:
        ip_address(host)
    except ValueError:
        return False
    return True


class DashboardSecurity(Enum):
    """How the connections of browsers are protected."""

    TLS = "tls"
    PLAINTEXT = "plaintext"
    """Not at all: who reads the network's traffic gets the token, and with it all that viewers may
    see and do."""


@attrs.frozen
class DashboardConfig:
    """The web dashboard of `meshtrio serve`, and of programs that embed a mesh.

    Cannot be changed by a reload.
    """

    listen: str | None = attrs.field(default=None, validator=parsed_by(parse_host_port))
    """`host:port` on which the dashboard is served; it is off by default. `serve --dashboard`
    overrides it."""
    control: bool = False
    """Whether viewers may start, stop, restart, drain and scale plugins, set log levels, and reload
    the config file. By default they may only look."""
    tls: ServerTlsConfig | None = None
    """Certificate and key of the server; with `client_ca`, browsers need a certificate as well.
    Required for addresses that other hosts reach."""
    security: DashboardSecurity = DashboardSecurity.TLS
    """`plaintext` permits an address that other hosts reach without `tls`, as in a container whose
    port is published on loopback only."""
    hosts: tuple[str, ...] = attrs.field(
        default=(), converter=to_strings, validator=deep_iterable(_is_host)
    )
    """Further names by which browsers may reach the dashboard, such as that of a proxy, without
    ports. The host of `listen`, the addresses it stands for, and `localhost` are always
    accepted; requests with others are refused, since a website could have its name resolve to this
    machine (DNS rebinding)."""

    @property
    def address(self) -> Address | None:
        """The address of `listen`; None if the dashboard is off."""
        return None if self.listen is None else parse_host_port(self.listen)

    def validate(self) -> list[str]:
        """Return errors in the combination of fields, as "dashboard: reason"."""
        is_plaintext = self.security is DashboardSecurity.PLAINTEXT
        if self.tls is not None and is_plaintext:
            text = 'tls: is not used with security = "plaintext"; leave one of them out'
            return [f"dashboard: {text}"]
        address = self.address
        if address is None or self.tls is not None or is_plaintext or _is_loopback(address.host):
            return []
        other = 'security = "plaintext" does without, and shows the token to the network'
        return [f"dashboard: listen: other hosts reach {self.listen}, which requires tls; {other}"]


def _is_loopback(host: str) -> bool:
    return host.lower() == "localhost" or (is_ip_address(host) and ip_address(host).is_loopback)
