"""The queries of one lookup: A and AAAA records, or SRV records and the hosts that they name."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import attrs
import trio

from meshtrio.discovery.dns.answers import (
    DnsAnswer,
    DnsRecord,
    FailureKind,
    LookupFailedError,
    UnresolvedHost,
)

MAX_SRV_HOSTS = 64
"""Maximum number of hosts of SRV records whose addresses are looked up."""

T = TypeVar("T")
_FAMILIES = ((False, "A"), (True, "AAAA"))
_SEVERITY = (FailureKind.NO_NAME, FailureKind.EMPTY, FailureKind.TIMEOUT, FailureKind.ERROR)


@attrs.frozen
class RecordSet:
    """The records of one type: dnspython's, of which `address`, or the fields of SRV, are used."""

    records: tuple[Any, ...]
    ttl: float
    additional: dict[str, tuple[str, ...]] = attrs.field(factory=dict)
    """Addresses of hosts that the server has sent along, by `normalize_host`."""
    additional_ttl: float = 0.0


def normalize_host(host: str) -> str:
    """Return a name in lower case, without the dot at the end of absolute ones."""
    return host.removesuffix(".").lower()


def make_empty() -> LookupFailedError:
    """Return the failure of an answer without addresses."""
    return LookupFailedError(FailureKind.EMPTY, "the answer has no addresses")


Query = Callable[[str, str], Awaitable[RecordSet]]
"""Returns the records of a name, by type. Raises LookupFailedError."""


async def lookup_hosts(
    query: Query, hosts: Sequence[UnresolvedHost], suffix: str = ""
) -> DnsAnswer:
    """Look up the addresses of hosts, both families of each at once. Raises LookupFailedError.

    `suffix` is added to the names that are asked for.
    """
    questions = [
        (host.replace(is_ipv6=is_ipv6), record_type)
        for host in hosts
        for is_ipv6, record_type in _FAMILIES
    ]
    results = await _gather(
        [partial(query, host.host + suffix, record_type) for host, record_type in questions]
    )
    records: list[DnsRecord] = []
    unresolved: dict[UnresolvedHost, LookupFailedError] = {}
    failures: list[LookupFailedError] = []
    ttls: list[float] = []
    for (host, _), result in zip(questions, results, strict=True):
        if isinstance(result, LookupFailedError):
            failures.append(result)
            if result.kind in (FailureKind.TIMEOUT, FailureKind.ERROR):
                unresolved[host] = result
            continue
        ttls.append(result.ttl)
        records += _make_records(host, (each.address for each in result.records))
    if not records:
        failures += [make_empty()] if ttls else []
        raise max(failures, key=lambda each: _SEVERITY.index(each.kind))
    problem = next((each.reason for each in unresolved.values()), "")
    return DnsAnswer(tuple(records), min(ttls), tuple(unresolved), problem)


def _make_records(host: UnresolvedHost, addresses: Iterable[str]) -> list[DnsRecord]:
    """Make the records of a host's addresses, except for those that cannot be called."""
    found = []
    for text in addresses:
        ip = ipaddress.ip_address(text)
        ip = getattr(ip, "ipv4_mapped", None) or ip
        if not (ip.is_unspecified or ip.is_multicast):
            found.append(DnsRecord(host.host, str(ip), host.port, host.priority, host.weight))
    return found


async def _gather(tasks: Sequence[Callable[[], Awaitable[T]]]) -> list[T | LookupFailedError]:
    """Run tasks at once; return what each returns, or the LookupFailedError that it raises."""
    results: dict[int, T | LookupFailedError] = {}

    async def run(number: int) -> None:
        try:
            results[number] = await tasks[number]()
        except LookupFailedError as exc:
            results[number] = exc

    async with trio.open_nursery() as nursery:
        for number in range(len(tasks)):
            nursery.start_soon(run, number)
    return [results[number] for number in range(len(tasks))]


# -- SRV -----------------------------------------------------------------------------------------


async def lookup_srv(query: Query, name: str) -> DnsAnswer:
    """Look up SRV records and the addresses of their hosts. Raises LookupFailedError."""
    found = await query(name, "SRV")
    hosts = {
        UnresolvedHost(
            normalize_host(each.target.to_text()), False, each.port, each.priority, each.weight
        ): None
        # A target of "." says that there is no such service; see RFC 2782.
        for each in found.records
        if each.port and normalize_host(each.target.to_text())
    }
    if not hosts:
        raise make_empty()
    selected = sorted(hosts, key=lambda each: (each.priority, each.host))[:MAX_SRV_HOSTS]
    records = [
        record
        for host in selected
        for record in _make_records(host, found.additional.get(host.host, ()))
    ]
    missing = [host for host in selected if host.host not in found.additional]
    ttl = min(found.ttl, found.additional_ttl) if records else found.ttl
    if not missing:
        if not records:
            raise make_empty()
        return DnsAnswer(tuple(records), ttl)
    try:
        # Absolute: targets of SRV records have nothing to do with the search domains of this host.
        rest = await lookup_hosts(query, missing, suffix=".")
    except LookupFailedError as exc:
        if not records:
            raise
        kept = tuple(host.replace(is_ipv6=is_ipv6) for host in missing for is_ipv6, _ in _FAMILIES)
        return DnsAnswer(tuple(records), ttl, kept, exc.reason)
    return rest.replace(records=(*records, *rest.records), ttl=min(ttl, rest.ttl))
