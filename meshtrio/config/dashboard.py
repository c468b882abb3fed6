"""The config of the dashboard."""

from __future__ import annotations

import re
from enum import Enum
from ipaddress import ip_address
from pathlib import Path

import attrs
from attrs.validators import deep_iterable

from meshtrio.config.telemetry import parse_host_port
from meshtrio.config.validators import parsed_by, require, to_strings
from meshtrio.util.address import Address

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
    """Whether the dashboard is served with TLS."""

    TLS = "tls"
    PLAINTEXT = "plaintext"
    """No encryption: who reads the network between viewer and mesh gets the token, and with it all
    that viewers may see and do."""


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
    certificate: Path | None = None
    """The server's certificate chain for TLS, a PEM file. Required for addresses other than those
    of loopback, unless `security` is `plaintext`."""
    key: Path | None = None
    """The private key of `certificate`, a PEM file."""
    security: DashboardSecurity | None = None
    """`tls` requires TLS on loopback as well; `plaintext` permits other addresses without it."""
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
        has_tls = self.certificate is not None
        if has_tls != (self.key is not None):
            return ["dashboard: TLS requires both certificate and key"]
        if has_tls and self.security is DashboardSecurity.PLAINTEXT:
            text = 'certificate: is not used with security = "plaintext"; leave one of them out'
            return [f"dashboard: {text}"]
        if has_tls or self.security is DashboardSecurity.PLAINTEXT:
            return []
        if self.security is DashboardSecurity.TLS:
            return ['dashboard: security = "tls" requires certificate and key']
        if self.address is not None and not _is_loopback(self.address.host):
            other = 'security = "plaintext" shows the token to who reads the network'
            need = f"listen: {self.listen} can be reached from other hosts"
            return [f"dashboard: {need}: TLS requires certificate and key; {other}"]
        return []


def _is_loopback(host: str) -> bool:
    return host == "localhost" or (is_ip_address(host) and ip_address(host).is_loopback)
