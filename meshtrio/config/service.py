"""A service: endpoints of it that the mesh does not run, and how it is called."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import attrs

from meshtrio.config.plugin import at_least
from meshtrio.config.service_names import check_service_name
from meshtrio.errors import ConfigError
from meshtrio.grpc.service_config import parse_service_config
from meshtrio.util.address import Address
from meshtrio.util.tls_config import ClientTlsConfig


def _check_name(_: object, __: object, value: str) -> None:
    check_service_name(value)


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
    """Several tables may have one name: endpoints that need other certificates, say."""

    name: str = attrs.field(validator=_check_name)
    """As it is connected to; `plugin.<name>` to add to a plugin's instances."""
    endpoints: tuple[str, ...] = attrs.field(
        default=(), converter=tuple, validator=_check_endpoints
    )
    """`tcp://host:port` or `unix:/path`."""
    weight: int = attrs.field(default=1, validator=at_least(1))
    """Of each of these endpoints; a plugin's instances have 1."""
    local: bool | None = None
    """Called like the mesh's own instances; the others are called when none of those is ready. By
    default a Unix socket is local."""
    tls: ClientTlsConfig | None = None
    """How to speak TLS there."""
    services: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    """The gRPC services that these endpoints serve, as for plugins."""
    config: Mapping[str, Any] = attrs.field(factory=dict, validator=_check_config)
    """gRPC's service config, in its JSON form: retries, balancing and the like."""

    @property
    def config_json(self) -> str:
        return json.dumps(self.config, sort_keys=True) if self.config else ""
