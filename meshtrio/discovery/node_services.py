"""What etcd has of nodes and their services, as endpoints. Without I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from meshtrio.discovery.endpoint import (
    IDLE_PRIORITY_STEP,
    OTHER_ZONE_PRIORITY,
    REMOTE_PRIORITY,
    Endpoint,
)
from meshtrio.discovery.etcd_entries import (
    EndpointEntry,
    EntryError,
    NodeEntry,
    get_nodes_prefix,
    parse_entry,
)
from meshtrio.util.record import FrozenRecord
from meshtrio.util.tls_config import ClientTlsConfig

_MAX_PROBLEMS = 1000
"""Number of keys with values that cannot be used which are remembered."""
_MAX_KEY_LENGTH = 1024
"""Characters of the longest key that is read, and of keys in messages."""


class StoredEntry(FrozenRecord):
    """A key and its value."""

    key: str
    value: bytes
    create_revision: int
    """The revision of etcd in which the key was created: another one if it was deleted since."""
    lease: int = 0
    """The lease that it ends with; 0 for none."""


class _KnownEndpoint(FrozenRecord):
    entry: EndpointEntry
    stored: StoredEntry


class NodeServices:
    """The nodes and services below one prefix, except for those of this node."""

    def __init__(
        self, prefix: str, own_node: str, zone: str, peer_tls: ClientTlsConfig | None
    ) -> None:
        self.nodes: dict[str, NodeEntry] = {}
        """All nodes by their names, this one included."""
        self.own: dict[str, StoredEntry] = {}
        """The endpoints of this node, by key."""
        self._changed_own_keys: set[str] = set()
        self.problems: dict[str, str] = {}
        """Why keys are ignored, by key; keys that are too long are truncated."""
        self._stored_nodes: dict[str, StoredEntry] = {}
        self._prefix, self._own_node, self._zone, self._tls = prefix, own_node, zone, peer_tls
        self._endpoints: dict[str, _KnownEndpoint] = {}
        self._made: dict[str, Endpoint] = {}
        """The endpoints that have an address of their own, by key. They are made once: a service
        may have many, of which one changes."""
        self._keys_by_service: defaultdict[str, dict[str, None]] = defaultdict(dict)
        """In the order in which they were found."""
        self._endpoint_counts = Counter[str]()

    @property
    def services(self) -> Iterable[str]:
        """The names of services that other nodes have."""
        return self._keys_by_service.keys()

    @property
    def other_nodes(self) -> set[str]:
        """The names of all nodes but this one."""
        return self.nodes.keys() - {self._own_node}

    def count_endpoints(self) -> dict[str, int]:
        """Return the number of endpoints in etcd by node, this one included.

        Those of programs that have registered themselves are counted under "".
        """
        nodes = dict.fromkeys(self.nodes, 0)
        return {**nodes, **self._endpoint_counts, self._own_node: len(self.own)}

    def get_node_lease(self, node: str) -> int:
        """Return the lease of a node's key; 0 if it has none."""
        stored = self._stored_nodes.get(node)
        return 0 if stored is None else stored.lease

    def apply(
        self, puts: Iterable[StoredEntry], deletes: Iterable[str], *, is_snapshot: bool
    ) -> set[str]:
        """Apply a change; `is_snapshot` if `puts` is all that there is.

        Returns:
            The services whose endpoints may have changed.
        """
        puts, changed = list(puts), set[str]()
        if is_snapshot:
            known = {*self._endpoints, *self.problems, *self.own}
            deletes = known - {stored.key[:_MAX_KEY_LENGTH] for stored in puts}
            self.nodes.clear()
            self._stored_nodes.clear()
        for key in deletes:
            self._remove(key, changed)
        for stored in puts:
            self._put(stored, changed)
        return changed

    def get_problem(self, key: str) -> str | None:
        """Return why a key is ignored; None if it is not."""
        return self.problems.get(key[:_MAX_KEY_LENGTH])

    def take_changed_own_keys(self) -> set[str]:
        """Return the keys of this node's endpoints that have changed since the last time."""
        changed, self._changed_own_keys = self._changed_own_keys, set()
        return changed

    def make_endpoints(self, service: str) -> list[Endpoint]:
        """Return the endpoints of a service.

        A gateway is one endpoint, with the weight of all instances that are called through it.
        """
        gateways: dict[tuple[str, str], list[_KnownEndpoint]] = {}
        made = []
        for key in self._keys_by_service.get(service, ()):
            found = self._endpoints[key]
            if found.entry.is_gateway:
                gateway = found.entry.node, found.entry.address
                gateways.setdefault(gateway, []).append(found)
            else:
                endpoint = self._made.get(key)
                if endpoint is None:
                    endpoint_id = f"{key} of revision {found.stored.create_revision}"
                    endpoint = self._made[key] = self._make(endpoint_id, [found])
                made.append(endpoint)
        for (node, address), members in gateways.items():
            # Of a node that has left and joined again it is another endpoint.
            stored = self._stored_nodes.get(node)
            revision = 0 if stored is None else stored.create_revision
            made.append(self._make(f"{node} of revision {revision} at {address}", members))
        return made

    def describe_end(self, endpoint: Endpoint) -> str:
        """Return the reason why an endpoint is gone, as a sentence."""
        if endpoint.node not in self.nodes:
            return f"{endpoint.address} is gone from etcd: node {endpoint.node} has left"
        return f"{endpoint.address} was withdrawn by node {endpoint.node}"

    def _make(self, endpoint_id: str, members: list[_KnownEndpoint]) -> Endpoint:
        entry = members[0].entry
        priority = REMOTE_PRIORITY if entry.zone == self._zone else OTHER_ZONE_PRIORITY
        if entry.is_gateway and all(each.entry.is_idle for each in members):
            priority += IDLE_PRIORITY_STEP
        return Endpoint(
            id=endpoint_id,
            address=entry.address,
            instance=0 if entry.is_gateway else entry.instance,
            weight=sum(each.entry.weight for each in members),
            priority=priority,
            tls=self._tls,
            node=entry.node or members[0].stored.key,
            is_gateway=entry.is_gateway,
        )

    def _put(self, stored: StoredEntry, changed: set[str]) -> None:
        self._remove(stored.key, changed)
        try:
            if len(stored.key) > _MAX_KEY_LENGTH:
                raise EntryError(f"the key has {len(stored.key):,} characters")
            entry = parse_entry(self._prefix, stored.key, stored.value)
        except EntryError as exc:
            if len(self.problems) < _MAX_PROBLEMS:
                self.problems[stored.key[:_MAX_KEY_LENGTH]] = str(exc)
            return
        if isinstance(entry, NodeEntry):
            self.nodes[entry.name] = entry
            self._stored_nodes[entry.name] = stored
        elif entry.node and entry.node == self._own_node:
            self.own[stored.key] = stored
            self._changed_own_keys.add(stored.key)
        else:
            self._endpoints[stored.key] = _KnownEndpoint(entry, stored)
            self._endpoint_counts[entry.node] += 1
            self._keys_by_service[entry.service][stored.key] = None
            changed.add(entry.service)

    def _remove(self, key: str, changed: set[str]) -> None:
        self.problems.pop(key[:_MAX_KEY_LENGTH], None)
        if self.own.pop(key, None) is not None:
            self._changed_own_keys.add(key)
        found = self._endpoints.pop(key, None)
        self._made.pop(key, None)
        if found is not None:
            service, node = found.entry.service, found.entry.node
            changed.add(service)
            self._endpoint_counts[node] -= 1
            if not self._endpoint_counts[node]:
                del self._endpoint_counts[node]
            del self._keys_by_service[service][key]
            if not self._keys_by_service[service]:
                del self._keys_by_service[service]
        elif key.startswith(nodes := get_nodes_prefix(self._prefix)):
            self.nodes.pop(key.removeprefix(nodes), None)
            self._stored_nodes.pop(key.removeprefix(nodes), None)
