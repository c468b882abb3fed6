"""The [[service]] tables of a config, in a registry."""

from __future__ import annotations

from collections.abc import Iterable

from meshtrio.address import Address, TlsFiles
from meshtrio.client.endpoint import LOCAL, REMOTE, Departure, Endpoint
from meshtrio.config import ServiceTable
from meshtrio.registry import Registry


def follow(
    registry: Registry, before: Iterable[ServiceTable], after: Iterable[ServiceTable]
) -> None:
    """Take over what the tables say now; endpoints that were there before are left alone."""
    before, after = list(before), list(after)
    old, new = _listed(before), _listed(after)
    for table in after:
        registry.declare(table.name)
    for service, endpoint in old:
        if (service, endpoint) not in new:
            reason = f"{endpoint.address} was taken out of the config"
            registry.deregister(service, Departure(endpoint.id, reason))
    for service, endpoint in new:
        if (service, endpoint) not in old:
            registry.register(service, endpoint)
    texts = {table.name: table.config_text for table in after if table.config}
    for name in dict.fromkeys(table.name for table in (*before, *after)):
        registry.configure(name, texts.get(name, ""))


def _listed(tables: Iterable[ServiceTable]) -> list[tuple[str, Endpoint]]:
    return [
        (table.name, outside_endpoint(address, table.weight, table.tls, local=table.local))
        for table in tables
        for address in table.endpoints
    ]


def outside_endpoint(
    address: str, weight: int = 1, tls: TlsFiles | None = None, *, local: bool | None = None
) -> Endpoint:
    """An endpoint the mesh does not run, with an id that says all of it. Raises ValueError.

    `local` as in `ServiceTable`.
    """
    where = Address.parse(address)
    priority = LOCAL if (where.is_local if local is None else local) else REMOTE
    name = f"{where} weight {weight} priority {priority}{f' {tls}' if tls else ''}"
    return Endpoint(name, str(where), weight=weight, priority=priority, tls=tls)
