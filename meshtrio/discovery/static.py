"""Registers the endpoints of the [[service]] tables of a config."""

from __future__ import annotations

from collections.abc import Iterable

from meshtrio.config import StaticServiceConfig
from meshtrio.discovery.endpoint import LOCAL_PRIORITY, REMOTE_PRIORITY, Endpoint, ExitInfo
from meshtrio.discovery.registry import Registry
from meshtrio.util.address import Address
from meshtrio.util.tls_config import ClientTlsConfig


def apply_service_tables(
    registry: Registry,
    old_tables: Iterable[StaticServiceConfig],
    new_tables: Iterable[StaticServiceConfig],
) -> None:
    """Update the registry from the old tables to the new ones, leaving unchanged endpoints."""
    old_tables, new_tables = list(old_tables), list(new_tables)
    old, new = _list_endpoints(old_tables), _list_endpoints(new_tables)
    for table in new_tables:
        registry.add_service(table.name)
    for service, endpoint in old:
        if (service, endpoint) not in new:
            reason = f"{endpoint.address} was removed from the config"
            registry.deregister(service, ExitInfo(endpoint.id, reason))
    for service, endpoint in new:
        if (service, endpoint) not in old:
            registry.register(service, endpoint)
    texts = {table.name: table.config_json for table in new_tables if table.config}
    for name in dict.fromkeys(table.name for table in (*old_tables, *new_tables)):
        registry.set_service_config(name, texts.get(name, ""))


def _list_endpoints(tables: Iterable[StaticServiceConfig]) -> list[tuple[str, Endpoint]]:
    return [
        (table.name, make_external_endpoint(address, table.weight, table.tls, local=table.local))
        for table in tables
        for address in table.addresses
    ]


def make_external_endpoint(
    address: str, weight: int = 1, tls: ClientTlsConfig | None = None, *, local: bool | None = None
) -> Endpoint:
    """Make an endpoint that the mesh does not run; equal arguments give equal ids.

    Args:
        address: `unix:/path` or `tcp:host:port`.
        weight: See `Endpoint.weight`.
        tls: The TLS files for connections to it; None for plaintext.
        local: Whether it is on this machine, which gives it the higher priority; None: if it is a
            Unix socket.

    Raises:
        ValueError: The address has another form.
    """
    parsed = Address.parse(address)
    priority = LOCAL_PRIORITY if (parsed.is_unix if local is None else local) else REMOTE_PRIORITY
    endpoint_id = f"{parsed} weight {weight} priority {priority}{f' {tls}' if tls else ''}"
    return Endpoint(endpoint_id, str(parsed), weight=weight, priority=priority, tls=tls)
