"""What the answers for a name mean for the endpoints of a table. Pure.

The records of an answer become placements (`place_records`): addresses with the priority and the
weight of an endpoint. `EndpointSet` compares them with the endpoints that are known.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

import attrs

from meshtrio.discovery.endpoint import LOCAL_PRIORITY, REMOTE_PRIORITY, Endpoint, ExitInfo
from meshtrio.util.dns_target import DnsTarget
from meshtrio.util.record import FrozenRecord
from meshtrio.util.tls_config import ClientTlsConfig

MAX_ENDPOINTS_PER_NAME = 256
"""Maximum number of endpoints of one name: every client connects to each of them."""
_ZERO_WEIGHT_DIVISOR = 10
"""An SRV weight of 0 is this fraction of the smallest other one of its priority. RFC 2782: such
records have "a very small chance of being selected"; an endpoint has a weight of at least 1."""


_MAX_WEIGHT = 2**32 - 1
"""Maximum weight of an endpoint, which is a uint32 in `meshtrio.v1.Endpoint`."""


class FailureKind(Enum):
    """Why a lookup has no addresses."""

    NO_NAME = "no_name"
    EMPTY = "empty"
    TIMEOUT = "timeout"
    ERROR = "error"


class LookupFailedError(Exception):
    """A lookup has no addresses; the text says why."""

    def __init__(self, kind: FailureKind, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class DnsRecord(FrozenRecord):
    """One address of an answer."""

    host: str
    """The host that has the address: the name itself, or the target of an SRV record."""
    ip: str
    """The IP address."""
    port: int
    """The port, of the name or of the SRV record."""
    priority: int = 0
    """The priority of the SRV record: lower ones are called first."""
    weight: int = 0
    """The weight of the SRV record; 0 for addresses of a host."""

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.ip

    @property
    def address(self) -> str:
        """The address of the endpoint."""
        return f"tcp:[{self.ip}]:{self.port}" if self.is_ipv6 else f"tcp:{self.ip}:{self.port}"


class UnresolvedHost(FrozenRecord):
    """A host whose addresses of one family could not be looked up, though others could."""

    host: str
    is_ipv6: bool
    port: int
    priority: int = 0
    weight: int = 0


class DnsAnswer(FrozenRecord):
    """The addresses of a name, as one lookup has found them."""

    records: tuple[DnsRecord, ...]
    """The addresses; at least one."""
    ttl: float
    """Seconds for which the answer is valid: the least of all records'."""
    unresolved: tuple[UnresolvedHost, ...] = ()
    """Hosts of which known addresses stay valid, since their lookup failed."""
    problem: str = ""
    """Why there are `unresolved` ones; "" if there are none."""


def merge_known(answer: DnsAnswer, known: Iterable[DnsRecord]) -> tuple[DnsRecord, ...]:
    """Return the records of an answer, and the known ones of hosts that it could not resolve."""
    by_host = defaultdict[tuple[str, bool, int], list[DnsRecord]](list)
    for each in known:
        by_host[each.host, each.is_ipv6, each.port].append(each)
    kept = (
        each.replace(priority=host.priority, weight=host.weight)
        for host in answer.unresolved
        for each in by_host[host.host, host.is_ipv6, host.port]
    )
    return (*answer.records, *kept)


def select_records(
    records: Iterable[DnsRecord], known: Iterable[str]
) -> tuple[tuple[DnsRecord, ...], int]:
    """Return one record for each address, and how many were left out as too many.

    Of an address with several records it is that of the best priority. If there are too many,
    the better priorities stay, and among equals those that are known, so that the choice is stable.
    """
    by_address: dict[str, DnsRecord] = {}
    for each in records:
        other = by_address.get(each.address)
        if other is None or (each.priority, -each.weight) < (other.priority, -other.weight):
            by_address[each.address] = each
    known = frozenset(known)
    ordered = sorted(by_address.values(), key=lambda r: (r.priority, r.address not in known, r.ip))
    selected = ordered[:MAX_ENDPOINTS_PER_NAME]
    return tuple(selected), len(ordered) - len(selected)


class Placement(FrozenRecord):
    """The priority and weight of one address."""

    priority: int
    weight: int


def place_records(
    records: Sequence[DnsRecord], table_weight: int, *, local: bool
) -> dict[str, Placement]:
    """Return the placement of each address.

    The records of the lowest SRV priority have the priority of the table, the others the following
    ones without gaps: what counts is their order.
    """
    base = LOCAL_PRIORITY if local else REMOTE_PRIORITY
    ranks = {each: rank for rank, each in enumerate(sorted({r.priority for r in records}))}
    weights = {
        priority: _scale_weights({r.weight for r in records if r.priority == priority})
        for priority in ranks
    }
    return {
        each.address: Placement(
            base + ranks[each.priority],
            min(weights[each.priority][each.weight] * table_weight, _MAX_WEIGHT),
        )
        for each in records
    }


def _scale_weights(weights: Iterable[int]) -> Mapping[int, int]:
    """Return the weight of an endpoint for each weight of the SRV records of one priority."""
    weights = set(weights)
    positive = weights - {0}
    if not positive:
        return {0: 1}
    if 0 not in weights:
        return {weight: weight for weight in positive}
    scaled = {weight: weight * _ZERO_WEIGHT_DIVISOR for weight in positive}
    return {0: min(positive), **scaled}


@attrs.frozen
class EndpointChanges:
    """How the endpoints of a name differ from those before."""

    added: tuple[Endpoint, ...]
    changed: tuple[Endpoint, ...]
    """Known endpoints with another weight or priority."""
    removed: tuple[ExitInfo, ...]

    def __bool__(self) -> bool:
        return bool(self.added or self.changed or self.removed)


_serials = itertools.count(1)


class EndpointSet:
    """The endpoints of one name of one table."""

    def __init__(
        self,
        target: DnsTarget,
        weight: int = 1,
        tls: ClientTlsConfig | None = None,
        *,
        local: bool = False,
    ) -> None:
        self._target = target
        self._weight = weight
        self._local = local
        self._tls = tls
        if tls is not None and tls.server_name is None:
            self._tls = attrs.evolve(tls, server_name=target.server_name)
        self._endpoints: dict[str, Endpoint] = {}
        self._records: tuple[DnsRecord, ...] = ()
        self.left_out = 0
        """Number of addresses of the last answer that exceeded `MAX_ENDPOINTS_PER_NAME`."""

    def __len__(self) -> int:
        return len(self._endpoints)

    def has_endpoint(self, endpoint_id: str) -> bool:
        """Return whether an endpoint is one of them now."""
        return any(each.id == endpoint_id for each in self._endpoints.values())

    def update(self, answer: DnsAnswer) -> EndpointChanges:
        """Follow an answer; return what has changed."""
        records, self.left_out = select_records(merge_known(answer, self._records), self._endpoints)
        self._records = records
        placements = place_records(records, self._weight, local=self._local)
        removed = [self._endpoints.pop(a) for a in list(self._endpoints) if a not in placements]
        added, changed = [], []
        for address, placement in placements.items():
            known = self._endpoints.get(address)
            if known is None:
                added.append(self._make_endpoint(address, placement))
                self._endpoints[address] = added[-1]
            elif (known.priority, known.weight) != (placement.priority, placement.weight):
                priority, weight = placement.priority, placement.weight
                changed.append(known.replace(priority=priority, weight=weight))
                self._endpoints[address] = changed[-1]
        reason = f"is no longer among the addresses of {self._target}"
        return EndpointChanges(tuple(added), tuple(changed), self._make_exits(removed, reason))

    def clear(self, reason: str) -> EndpointChanges:
        """Remove all endpoints; `reason` continues a sentence that starts with the address."""
        removed, self._endpoints, self._records = self._endpoints.values(), {}, ()
        return EndpointChanges((), (), self._make_exits(removed, reason))

    def _make_endpoint(self, address: str, placement: Placement) -> Endpoint:
        return Endpoint(
            f"{address} of {self._target} #{next(_serials)}",
            address,
            weight=placement.weight,
            priority=placement.priority,
            tls=self._tls,
        )

    @staticmethod
    def _make_exits(endpoints: Iterable[Endpoint], reason: str) -> tuple[ExitInfo, ...]:
        return tuple(ExitInfo(each.id, f"{each.address} {reason}") for each in endpoints)
