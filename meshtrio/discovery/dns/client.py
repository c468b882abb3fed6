"""Asks name servers, by dnspython.

/etc/resolv.conf is read as a resolver reads it: name servers in their order, `search` and `domain`,
and the options `ndots`, `timeout`, `rotate` and `edns0`; and again when `_RESOLV_CONF_MAX_AGE` has
passed. /etc/hosts is not read. Truncated answers are asked for again by TCP.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

import dns.asyncbackend
import dns.asyncresolver
import dns.exception
import dns.nameserver
import dns.rdatatype
import dns.resolver
import trio

from meshtrio.discovery.dns.answers import (
    DnsAnswer,
    FailureKind,
    LookupFailedError,
    UnresolvedHost,
)
from meshtrio.discovery.dns.lookup import (
    RecordSet,
    lookup_hosts,
    lookup_srv,
    make_empty,
    normalize_host,
)
from meshtrio.discovery.dns.query_limiter import QUERY_TIMEOUT, QueryLimiter
from meshtrio.util.dns_target import DnsTarget, parse_name_server

_RESOLV_CONF_MAX_AGE = 30.0
"""Seconds after which /etc/resolv.conf is read again."""
_MAX_REASON_LENGTH = 300
"""Maximum number of characters of the reason of a failure."""

_BACKEND = dns.asyncbackend.get_backend("trio")


class DnsClient:
    """Looks up names. Limits the queries of all its lookups together."""

    def __init__(
        self, servers: Sequence[str] = (), resolv_conf: Path | str = "/etc/resolv.conf"
    ) -> None:
        """Ask `servers`, each `address` or `address:port`, or those of resolv.conf if empty."""
        self._resolv_conf = str(resolv_conf)
        self._servers = tuple(servers)
        self._resolver: dns.asyncresolver.Resolver | None = None
        self._resolver_read_at = 0.0
        self._reading = trio.Lock()
        self._limiter = QueryLimiter()

    async def lookup(self, target: DnsTarget) -> DnsAnswer:
        """Look up a name.

        Raises:
            LookupFailedError: There are no addresses.
        """
        resolver = await self._get_resolver(target.server)
        query = partial(self._query, resolver)
        if target.is_srv:
            return await lookup_srv(query, target.name)
        return await lookup_hosts(query, [UnresolvedHost(target.name, False, target.port)])

    async def _get_resolver(self, server: str) -> dns.asyncresolver.Resolver:
        resolver = await self._read_settings()
        servers = (server,) if server else self._servers
        if servers:
            resolver = _copy_with_servers(resolver, servers)
        if not resolver.nameservers:
            reason = "no name server is known: /etc/resolv.conf has none, nor has [mesh.dns]"
            raise LookupFailedError(FailureKind.ERROR, reason)
        return resolver

    async def _read_settings(self) -> dns.asyncresolver.Resolver:
        """Return the settings of resolv.conf, read once for all lookups that wait for them."""
        async with self._reading:
            now = trio.current_time()
            if self._resolver is None or now - self._resolver_read_at > _RESOLV_CONF_MAX_AGE:
                self._resolver = await trio.to_thread.run_sync(_read_resolv_conf, self._resolv_conf)
                self._resolver_read_at = now
            return self._resolver

    async def _query(
        self, resolver: dns.asyncresolver.Resolver, name: str, record_type: str
    ) -> RecordSet:
        """Ask for the records of one type. Raises LookupFailedError."""
        async with self._limiter.query():
            try:
                answer = await resolver.resolve(
                    name, record_type, search=True, lifetime=QUERY_TIMEOUT, backend=_BACKEND
                )
                return _read_answer(answer)
            except (dns.exception.DNSException, OSError, ValueError) as exc:
                raise _explain(exc, name, record_type) from None


def _read_resolv_conf(path: str) -> dns.asyncresolver.Resolver:
    """Make a resolver with the settings of a file, or without name servers if it has none."""
    try:
        return dns.asyncresolver.Resolver(path)
    except (dns.exception.DNSException, OSError, ValueError):
        resolver = dns.asyncresolver.Resolver(configure=False)
        resolver.nameservers = []
        return resolver


def _copy_with_servers(
    settings: dns.asyncresolver.Resolver, servers: Iterable[str]
) -> dns.asyncresolver.Resolver:
    """Make a resolver that asks other servers, with the search domains and options of another."""
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = [
        dns.nameserver.Do53Nameserver(*parse_name_server(server)) for server in servers
    ]
    for setting in ("search", "domain", "ndots", "timeout", "rotate", "edns", "payload"):
        setattr(resolver, setting, getattr(settings, setting))
    return resolver


def _read_answer(answer: dns.resolver.Answer) -> RecordSet:
    additional: dict[str, list[str]] = {}
    ttls = []
    for records in answer.response.additional:
        if records.rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            found = additional.setdefault(normalize_host(records.name.to_text()), [])
            found += (each.address for each in records)
            ttls.append(records.ttl)
    return RecordSet(
        records=tuple(answer.rrset or ()),
        ttl=float(answer.chaining_result.minimum_ttl),
        additional={host: tuple(found) for host, found in additional.items()},
        additional_ttl=float(min(ttls, default=0)),
    )


def _explain(exc: Exception, name: str, record_type: str) -> LookupFailedError:
    """Return why a query has failed, in the same words for equal reasons."""
    if isinstance(exc, dns.resolver.NXDOMAIN):
        return LookupFailedError(FailureKind.NO_NAME, "there is no such name (NXDOMAIN)")
    if isinstance(exc, dns.resolver.NoAnswer):
        return make_empty()
    errors = _list_errors(exc)
    if isinstance(exc, dns.exception.Timeout) and not errors:
        reason = f"no answer within {QUERY_TIMEOUT:g} s"
        return LookupFailedError(FailureKind.TIMEOUT, reason)
    reason = "; ".join(errors) or f"{type(exc).__name__}: {exc}"
    text = f"the lookup of {record_type} records of {name} failed: {reason}"
    return LookupFailedError(FailureKind.ERROR, text[:_MAX_REASON_LENGTH])


def _list_errors(exc: Exception) -> list[str]:
    """Return the errors of the name servers that an exception of dnspython has, without timeouts.

    Each is (name server, whether by TCP, port, error, response).
    """
    found: dict[str, None] = {}
    for server, _, _, error, *_ in getattr(exc, "kwargs", {}).get("errors", ()):
        if not isinstance(error, dns.exception.Timeout):
            name = str(server).removeprefix("Do53:").replace("@", ":")
            text = str(error) or type(error).__name__
            found[f"{name} answered {text}" if isinstance(error, str) else f"{name}: {text}"] = None
    return list(found)
