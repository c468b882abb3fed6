"""Endpoints of etcd as users write them: `http://host:port` or `https://host:port`."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from urllib.parse import urlsplit

from meshtrio.util.address import Address
from meshtrio.util.errors import UsageError
from meshtrio.util.record import FrozenRecord

_DEFAULT_PORT = 2379
"""The port that IANA has assigned to clients of etcd."""


class EtcdEndpoint(FrozenRecord):
    """The address of a member."""

    url: str
    """As the user wrote it, for messages."""
    address: str
    """The address to connect to: `tcp:host:port`."""
    is_tls: bool
    """Whether to speak TLS."""
    is_loopback: bool
    """Whether it is on this host, so that plaintext is no risk."""


def parse_endpoint(url: str) -> EtcdEndpoint:
    """Parse `http://host:port` or `https://host:port`; the port is 2379 by default.

    Raises:
        UsageError: It has another form; a user, a path or a query counts as one.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as exc:
        raise UsageError(f"{url!r} is no endpoint of etcd: {exc}") from None
    is_bare = "@" not in parts.netloc and parts.path in ("", "/") and not parts.query
    if parts.scheme not in ("http", "https") or not host or parts.fragment or not is_bare:
        raise UsageError(f"{url!r} is no endpoint of etcd, such as https://10.0.0.1:2379")
    address = str(Address(host=host, port=_DEFAULT_PORT if port is None else port))
    return EtcdEndpoint(url, address, parts.scheme == "https", _is_loopback(host))


def parse_endpoints(urls: Sequence[str]) -> list[EtcdEndpoint]:
    """Parse the endpoints of a cluster, each of which counts once.

    Raises:
        UsageError: One has another form, or there is none.
    """
    if isinstance(urls, str):
        raise UsageError(f"endpoints of etcd have to be a list, not the text {urls!r}")
    if not urls:
        raise UsageError("no endpoints of etcd are given")
    return list({each.address: each for each in map(parse_endpoint, urls)}.values())


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
