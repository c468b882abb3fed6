"""Services of the config: endpoints that the mesh does not run, and service configs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from meshtrio.config.validators import at_least, check_service_name, parsed_by
from meshtrio.grpc.service_config import parse_service_config
from meshtrio.util.address import Address
from meshtrio.util.errors import ConfigError
from meshtrio.util.tls_config import ClientTlsConfig


def _check_endpoints(_: object, __: object, value: tuple[str, ...]) -> None:
    for address in value:
        Address.parse(address)


def _check_config(_: object, __: object, value: Mapping[str, Any]) -> None:
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
        default=(), converter=tuple, validator=_check_endpoints
    )
    """Addresses, each `tcp://host:port` or `unix:/path`."""
    weight: int = attrs.field(default=1, validator=at_least(1))
    """Weight of each of these endpoints in load balancing; a plugin's instances have 1."""
    local: bool | None = None
    """Whether these endpoints have the same priority as the mesh's own instances; others are called
    only if none of those is ready. By default true for Unix sockets."""
    tls: ClientTlsConfig | None = None
    """TLS settings of connections to these endpoints; plaintext by default."""
    services: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    """Full names of the gRPC services that these endpoints serve; see `services` of plugins."""
    config: Mapping[str, Any] = attrs.field(factory=dict, validator=_check_config)
    """gRPC service config in its JSON form: retries, load balancing and so on."""

    @property
    def config_json(self) -> str:
        """The service config as JSON text; "" if there is none."""
        return json.dumps(self.config, sort_keys=True) if self.config else ""
