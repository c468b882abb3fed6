"""Registration and discovery of services across hosts."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from meshtrio.config.access import GatewayConfig
from meshtrio.config.validators import between, parsed_by, require, to_strings
from meshtrio.util.address import Address
from meshtrio.util.tls_config import ClientTlsConfig

NODE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}(?<!/)")
_MIN_TTL, _MAX_TTL = 2, 3600
_WILDCARD_HOSTS = ("0.0.0.0", "::")  # noqa: S104 - nothing is bound here


def parse_etcd_url(url: str) -> str:
    """Return an etcd endpoint in the form `http://host:port`; the port is 2379 by default.

    Raises:
        ValueError: It has another form.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or 2379
    except ValueError:
        host, port = None, 0
    if "@" in url:
        raise ValueError("a URL with a user: set user and password_file instead")
    if not host or parts.scheme not in ("http", "https") or parts.path.strip("/") or parts.query:
        raise ValueError(f"{url!r} is not http://host:port or https://host:port")
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _to_etcd_urls(urls: list[str]) -> tuple[str, ...]:
    return tuple(map(parse_etcd_url, to_strings(urls)))


def _check_advertised(text: str) -> None:
    address = Address.parse(text)
    if not address.host or address.host in _WILDCARD_HOSTS or not address.port:
        raise ValueError(f"{text!r} is not an address that other hosts can connect to")


@attrs.frozen
class DiscoveryConfig:
    """Registration of this mesh's services in etcd, and discovery of those of other meshes.

    A mesh is a node. Its services are available to the programs of all nodes with the same
    `prefix`. Cannot be changed by a reload.
    """

    etcd: tuple[str, ...] = attrs.field(default=(), converter=_to_etcd_urls)
    """Members of the etcd cluster, `https://host:port` or `http://host:port`; the port is 2379 by
    default. Several are tried in turn."""
    prefix: str = attrs.field(
        default="meshtrio", validator=require(_PREFIX.fullmatch, "{!r} is not a prefix of keys")
    )
    """What all keys begin with: `<prefix>/<service>/<node>/<instance>`."""
    node: str | None = attrs.field(
        default=None, validator=require(NODE_NAME.fullmatch, "{!r} is not a name of a node")
    )
    """Name of this node, which no other may have at the same time. By default the host's name."""
    zone: str = ""
    """Where the node is, such as a data centre: nodes of the same zone are called before others."""
    advertise: str | None = attrs.field(default=None, validator=parsed_by(_check_advertised))
    """Address of this node's gateway for other nodes, `tcp://host:port`. Plugins on Unix sockets
    are called through it; without it, only those that have a `listen` are available to others."""
    ttl: int = attrs.field(
        default=10, validator=between(_MIN_TTL, _MAX_TTL, f"{_MIN_TTL} and {_MAX_TTL} seconds")
    )
    """Seconds after which etcd removes this node's keys if it has not heard of it."""
    user: str | None = None
    """User of etcd, if it requires one."""
    password_file: Path | None = None
    """File with the user's password in its first line."""
    tls: ClientTlsConfig | None = None
    """TLS settings of connections to etcd; `https` without them trusts the system's certificate
    authorities."""
    peer_tls: ClientTlsConfig | None = None
    """TLS settings of connections to gateways and plugins of other nodes. By default the
    certificate, the key and the `client_ca` of this node's gateway; plaintext if there is none, or
    in plaintext. The certificate is what their access rules see."""

    @property
    def node_name(self) -> str:
        """The name of this node."""
        return self.node or os.uname().nodename

    def with_peer_tls(self, gateway: GatewayConfig) -> DiscoveryConfig:
        """Return a copy with the `peer_tls` in force, for a mesh with this gateway."""
        tls = gateway.tls
        if self.peer_tls is not None or tls is None or tls.client_ca is None:
            return self
        return attrs.evolve(self, peer_tls=ClientTlsConfig(tls.client_ca, tls.certificate, tls.key))

    def validate(self, gateway: GatewayConfig) -> list[str]:
        """Return errors in the combination of fields, as "key: reason"."""
        if not self.etcd:
            changed = self != DiscoveryConfig()
            return ["discovery: etcd: is required with the other settings"] if changed else []
        problems = []
        if not NODE_NAME.fullmatch(self.node_name):
            text = f"the host's name, {self.node_name!r}, is not a name of a node; set one"
            problems.append(f"discovery: node: {text}")
        if self.advertise is not None and gateway.listen is None:
            problems.append(
                "discovery: advertise: requires a gateway: set listen in [mesh.gateway]"
            )
        if (self.user is None) != (self.password_file is None):
            problems.append("discovery: user and password_file: are used together")
        schemes = {url.partition(":")[0] for url in self.etcd}
        if len(schemes) > 1:
            problems.append("discovery: etcd: either all members use https, or none does")
        if self.tls is not None and "http" in schemes:
            problems.append("discovery: tls: is for https:// members")
        return problems
