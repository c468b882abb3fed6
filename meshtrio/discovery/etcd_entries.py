"""Keys and values of endpoints in etcd, as grpc-go's `naming/endpoints` reads and writes them.

A key is `<prefix>/<service>/<node>/<instance>`. Its value is a JSON object with `Op` (0), `Addr`
(`host:port`) and `Metadata`, in which meshtrio writes what other nodes need to know. Programs that
register themselves by grpc-go's manager have keys `<prefix>/<service>/<anything>`, and may have no
metadata. Nodes have keys of their own, `<prefix>/.nodes/<node>`, which no service can have.

Source: go.etcd.io/etcd/client/v3/naming.
"""

from __future__ import annotations

import json
from typing import Any

from meshtrio.config.discovery import NODE_NAME
from meshtrio.config.validators import check_service_name
from meshtrio.util.address import Address
from meshtrio.util.record import FrozenRecord

MAX_VALUE_LENGTH = 16 * 1024
"""Bytes of the longest value that is read; others are not values of an endpoint or a node."""
_NODES = ".nodes"
_MAX_TEXT_LENGTH = 256
_MAX_WEIGHT = 1_000_000
_MAX_INSTANCE = 2**31


class EntryError(ValueError):
    """A value in etcd is not that of an endpoint or node; the text says why."""


class EndpointEntry(FrozenRecord):
    """An endpoint of a service, as etcd has it."""

    service: str
    """The name of the service."""
    address: str
    """The address to connect to: `tcp:host:port`, or `unix:/path` if a program has registered it
    for this machine."""
    node: str = ""
    """The node that it belongs to; "" if a program has registered itself."""
    instance: int = 0
    """The number of the plugin's instance."""
    weight: int = 1
    """Its weight in load balancing."""
    zone: str = ""
    """The zone of its node."""
    plugin: str = ""
    """The plugin, if it is an instance of one."""
    is_gateway: bool = False
    """Whether the address is that of the node's gateway, instead of its own."""
    is_idle: bool = False
    """Whether the plugin is idle, and started by the first call through the gateway."""

    def make_key(self, prefix: str) -> str:
        """Return the key of an endpoint of a node."""
        return f"{prefix}/{self.service}/{self.node}/{self.instance}"

    def make_value(self) -> bytes:
        """Return the value."""
        metadata = {
            "service": self.service,
            "node": self.node,
            "instance": self.instance,
            "weight": self.weight,
            "zone": self.zone,
            "plugin": self.plugin,
            "gateway": self.is_gateway,
        }
        if self.is_idle:
            metadata["idle"] = True
        return _encode_update(self.address, metadata)


class NodeEntry(FrozenRecord):
    """A node, as etcd has it."""

    name: str
    """Its name."""
    address: str = ""
    """The address of its gateway; "" if it advertises none."""
    zone: str = ""
    """Its zone."""
    id: str = ""
    """Identifies the run of its mesh."""
    since: float = 0.0
    """When it joined, in seconds since the epoch by its own clock."""
    version: str = ""
    """The version of meshtrio that it runs."""

    def make_value(self) -> bytes:
        """Return the value."""
        fields = {"zone": self.zone, "id": self.id, "since": self.since, "version": self.version}
        return _encode_update(self.address, {"node": self.name, **fields})


def get_nodes_prefix(prefix: str) -> str:
    """Return what the keys of nodes begin with."""
    return f"{prefix}/{_NODES}/"


def make_node_key(prefix: str, name: str) -> str:
    """Return the key of a node."""
    return get_nodes_prefix(prefix) + name


def _encode_update(address: str, metadata: dict[str, Any]) -> bytes:
    host_port = str(Address.parse(address)).removeprefix("tcp:") if address else ""
    update = {"Op": 0, "Addr": host_port, "Metadata": metadata}
    return json.dumps(update, separators=(",", ":")).encode()


def parse_entry(prefix: str, key: str, value: bytes) -> EndpointEntry | NodeEntry:
    """Parse a key below `<prefix>/` and its value.

    Raises:
        EntryError: They are not those of an endpoint or a node.
    """
    address, metadata = _parse_update(value)
    if key.startswith(get_nodes_prefix(prefix)):
        name = key.removeprefix(get_nodes_prefix(prefix))
        if not NODE_NAME.fullmatch(name):
            raise EntryError("the key has no name of a node")
        return _parse_node(name, address, metadata)
    service, _, name = key.removeprefix(f"{prefix}/").rpartition("/")
    if not name:
        raise EntryError("the key has no name of an endpoint")
    _check_service(service)
    if not address:
        raise EntryError("it has no Addr")
    node = _get(metadata, "node", "")
    entry = EndpointEntry(
        _get(metadata, "service", service),
        address,
        node,
        _get_int(metadata, "instance", 0, _MAX_INSTANCE) if node else 0,
        _get_int(metadata, "weight", 1, _MAX_WEIGHT) or 1,
        _get(metadata, "zone", ""),
        _get(metadata, "plugin", ""),
        metadata.get("gateway") is True,
        metadata.get("idle") is True,
    )
    # A program may have metadata of its own with the same names.
    if not NODE_NAME.fullmatch(node) or entry.make_key(prefix) != key:
        return EndpointEntry(service, address)
    _check_service(entry.service)
    return entry


def _check_service(name: str) -> None:
    try:
        check_service_name(name)
    except ValueError as exc:
        raise EntryError(str(exc)) from None


def _parse_node(name: str, address: str, metadata: dict[str, Any]) -> NodeEntry:
    since = metadata.get("since", 0.0)
    if isinstance(since, bool) or not isinstance(since, int | float) or not 0 <= since < 2**53:
        raise EntryError(f"since is {since!r:.50}, not a time")
    zone, run_id, version = (_get(metadata, field, "") for field in ("zone", "id", "version"))
    return NodeEntry(name, address, zone, run_id, float(since), version)


def _parse_update(value: bytes) -> tuple[str, dict[str, Any]]:
    """Parse a value; return its address, "" if it has none, and its metadata."""
    if len(value) > MAX_VALUE_LENGTH:
        raise EntryError(f"it has {len(value):,} bytes, more than {MAX_VALUE_LENGTH:,}")
    try:
        update = json.loads(value)
    except (ValueError, RecursionError):
        raise EntryError("it is not JSON") from None
    if not isinstance(update, dict):
        raise EntryError("it is not an object")
    if update.get("Op", 0) != 0:
        raise EntryError(f"Op is {update['Op']!r:.50}, not 0")
    metadata = update.get("Metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    return _parse_address(_get(update, "Addr", "")), metadata


def _parse_address(text: str) -> str:
    if not text:
        return ""
    try:
        return str(Address.parse(text if text.startswith("unix:") else f"tcp:{text}"))
    except ValueError:
        raise EntryError(f"Addr is {text!r:.100}, not host:port") from None


def _get(fields: dict[str, Any], name: str, default: str) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str) or len(value) > _MAX_TEXT_LENGTH:
        raise EntryError(f"{name} is {value!r:.50}, not a text of at most {_MAX_TEXT_LENGTH}")
    return value


def _get_int(fields: dict[str, Any], name: str, default: int, maximum: int) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise EntryError(f"{name} is {value!r:.50}, not a number up to {maximum:,}")
    return value
