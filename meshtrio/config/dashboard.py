"""The config of the dashboard."""

from __future__ import annotations

import ipaddress
import re
from enum import Enum

import attrs
from attrs.validators import deep_iterable

from meshtrio.config.telemetry import parse_host_port
from meshtrio.config.validators import parsed_by, require, to_strings
from meshtrio.util.address import Address
from meshtrio.util.tls_config import ServerTlsConfig

_HOST_NAME = re.compile(r"[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?")
_is_host_name = require(
    lambda name: _HOST_NAME.fullmatch(name.lower()) is not None,
    "must be a host name or an IPv4 address without a port, as in mesh.example, not {!r}",
)


class DashboardSecurity(Enum):
    """How the connections of browsers are protected."""

    TLS = "tls"
    PLAINTEXT = "plaintext"
    """Not at all: whoever sees the network's traffic sees the token, and can use it."""


@attrs.frozen
class DashboardConfig:
    """The web page that shows the mesh. Requires the extra `dashboard`.

    Cannot be changed by a reload.
    """

    listen: str | None = attrs.field(default=None, validator=parsed_by(parse_host_port))
    """`host:port` on which the page is served; `serve --dashboard` overrides it. Not served by
    default. `meshtrio dashboard` prints the address to open, with the token that it requires. An
    address that other hosts reach requires `tls`."""
    control: bool = False
    """Whether viewers may start, stop, restart, drain and scale plugins, reload the config and set
    log levels. The log names who has done it."""
    tls: ServerTlsConfig | None = None
    """Certificate and key of the server. With `client_ca`, browsers need a certificate as well."""
    security: DashboardSecurity = DashboardSecurity.TLS
    """`plaintext` allows an address that other hosts reach without `tls`, such as in a container
    whose port is published on the host's loopback only."""
    hosts: tuple[str, ...] = attrs.field(
        default=(), converter=to_strings, validator=deep_iterable(_is_host_name)
    )
    """Further names and addresses by which browsers reach the page, such as that of a proxy.
    Requests with another name in `Host` are refused: otherwise pages of others could read it by
    changing what their own name resolves to (DNS rebinding). `localhost`, the host of `listen` and
    the address that a browser has connected to need not be listed."""

    @property
    def address(self) -> Address | None:
        """The address of the page, None if it is not served."""
        return None if self.listen is None else parse_host_port(self.listen)

    def validate(self) -> list[str]:
        """Return errors in the combination of fields, as "dashboard: reason"."""
        address = self.address
        if address is None:
            used = {
                "control": self.control,
                "tls": self.tls,
                "security": self.security is not DashboardSecurity.TLS,
                "hosts": self.hosts,
            }
            text = "dashboard: {} requires an address: set listen, too, or use serve --dashboard"
            return [text.format(key) for key in used if used[key]]
        if self.security is DashboardSecurity.PLAINTEXT and self.tls is not None:
            text = 'tls: is not used with security = "plaintext"; leave one of them out'
            return [f"dashboard: {text}"]
        is_exposed = not is_loopback(address.host) and self.security is DashboardSecurity.TLS
        if is_exposed and self.tls is None:
            text = f"dashboard: listen: other hosts reach {self.listen}, which requires tls; "
            text += 'security = "plaintext" does without, and shows the token to the network'
            return [text]
        return []


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine's own, which others do not reach."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
