"""Which of a mesh's endpoints other nodes may call, and where. Without I/O."""

from __future__ import annotations

import ipaddress
import zlib

from meshtrio.config import DiscoveryConfig
from meshtrio.discovery.endpoint import LOCAL_PRIORITY, Endpoint, ServiceState
from meshtrio.discovery.etcd_entries import EndpointEntry
from meshtrio.util.address import Address

_PLUGIN_PREFIX = "plugin."


def make_own_entries(
    service: str, state: ServiceState, config: DiscoveryConfig
) -> dict[str, EndpointEntry]:
    """Return the entries of this node's endpoints of a service, by key.

    An instance and its successor have the same key; the later one has it. A service whose plugin is
    idle has an entry of the gateway, which starts the plugin for a call.
    """
    found = {}
    for endpoint in state.endpoints:
        entry = _make_entry(service, endpoint, config)
        if entry is not None:
            found[entry.make_key(config.prefix)] = entry
    if not found and state.on_demand and config.advertise is not None:
        entry = _make_idle_entry(service, config.advertise, config)
        found[entry.make_key(config.prefix)] = entry
    return found


def _make_idle_entry(service: str, gateway: str, config: DiscoveryConfig) -> EndpointEntry:
    return EndpointEntry(
        service,
        str(Address.parse(gateway)),
        config.node_name,
        zone=config.zone,
        plugin=service.removeprefix(_PLUGIN_PREFIX),
        is_gateway=True,
        is_idle=True,
    )


def _make_entry(service: str, endpoint: Endpoint, config: DiscoveryConfig) -> EndpointEntry | None:
    """Return the entry of an endpoint; None if it is not this node's, or cannot be reached."""
    if endpoint.node or endpoint.priority != LOCAL_PRIORITY:
        return None
    address = Address.parse(endpoint.address)
    is_direct = is_reachable(address) and (endpoint.tls is None) == (config.peer_tls is None)
    if not is_direct and config.advertise is None:
        return None
    instance = endpoint.instance if endpoint.pid else zlib.crc32(endpoint.address.encode()) >> 1
    return EndpointEntry(
        service,
        str(address if is_direct else Address.parse(config.advertise or "")),
        config.node_name,
        instance,
        endpoint.weight,
        config.zone,
        service.removeprefix(_PLUGIN_PREFIX) if endpoint.pid else "",
        not is_direct,
    )


def is_reachable(address: Address) -> bool:
    """Return whether other hosts may connect to an address, as far as it tells."""
    if address.is_unix or address.host == "localhost":
        return False
    try:
        parsed = ipaddress.ip_address(address.host)
    except ValueError:
        return True
    return not (parsed.is_loopback or parsed.is_unspecified)
