"""The config of services whose endpoints the mesh does not run, and of looking them up in DNS."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import attrs
from attrs.validators import deep_iterable

from meshtrio.config.validators import at_least, check_service_name, parsed_by, to_strings
from meshtrio.grpc.service_config import parse_service_config
from meshtrio.util.dns_target import (
    DnsTarget,
    check_endpoint,
    is_dns_target,
    parse_name_server,
)
from meshtrio.util.errors import ConfigError
from meshtrio.util.tls_config import ClientTlsConfig


def _check_config(value: Mapping[str, Any]) -> None:
    try:
        parse_service_config(value)
    except ConfigError as exc:
        raise ValueError("; ".join(exc.problems)) from None


@attrs.frozen
class StaticServiceConfig:
    """A service: endpoints that the mesh does not run, and how it is called.

    Several tables may have the same name, for example for endpoints with different certificates.
    """

    name: str = attrs.field(validator=parsed_by(check_service_name))
    """Name that clients connect to; `plugin.<name>` adds endpoints to a plugin's instances."""
    endpoints: tuple[str, ...] = attrs.field(
        default=(), converter=to_strings, validator=deep_iterable(parsed_by(check_endpoint))
    )
    """Addresses, each `tcp://host:port` or `unix:/path`, and names whose addresses are followed in
    DNS: `dns:///host:port` by A and AAAA records, `dns+srv:///name` by SRV records."""
    weight: int = attrs.field(default=1, validator=at_least(1))
    """Weight of each of these endpoints in load balancing; a plugin's instances have 1. The weights
    of SRV records are multiplied by it."""
    local: bool | None = None
    """Whether these endpoints have the same priority as the mesh's own instances; others are called
    only if none of those is ready. By default true for Unix sockets. Of SRV records, those with the
    lowest priority have that of the table, and each further one has the next."""
    tls: ClientTlsConfig | None = None
    """TLS settings of connections to these endpoints; plaintext by default. The certificate of an
    endpoint from DNS must have the name that is looked up, unless `tls.server_name` is set."""
    services: tuple[str, ...] = attrs.field(default=(), converter=to_strings)
    """Full names of the gRPC services that these endpoints serve; see `services` of plugins."""
    config: Mapping[str, Any] = attrs.field(factory=dict, validator=parsed_by(_check_config))
    """gRPC service config in its JSON form: retries, load balancing and so on."""

    @property
    def config_json(self) -> str:
        """The service config as JSON text; "" if there is none."""
        return json.dumps(self.config, sort_keys=True) if self.config else ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """Those of the endpoints that are fixed addresses."""
        return tuple(each for each in self.endpoints if not is_dns_target(each))

    @property
    def dns_targets(self) -> tuple[DnsTarget, ...]:
        """Those of the endpoints that are looked up in DNS."""
        return tuple(DnsTarget.parse(each) for each in self.endpoints if is_dns_target(each))


@attrs.frozen
class DnsConfig:
    """How endpoints of services are looked up in DNS."""

    servers: tuple[str, ...] = attrs.field(
        default=(),
        converter=to_strings,
        validator=deep_iterable(parsed_by(parse_name_server)),
    )
    """Addresses of name servers, each with or without a port, as in `10.0.0.53` or
    `127.0.0.1:5353`. By default those of /etc/resolv.conf, whose search domains and options apply
    in either case."""


def find_dns_targets(tables: Iterable[StaticServiceConfig]) -> list[DnsTarget]:
    """Return the names that the tables have looked up in DNS."""
    return [target for table in tables for target in table.dns_targets]
