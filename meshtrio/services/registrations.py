"""Endpoints that programs register: who may register which, and how many.

The mesh's own user and root may register anything. Other users get names that nobody else has, or
that the config lists for them, and end or replace no registration but their own.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.address import Address
from meshtrio.client.endpoint import Endpoint
from meshtrio.config import MeshConfig
from meshtrio.contract import LONGEST_SOCKET_PATH
from meshtrio.registry import Registry
from meshtrio.rpc.peer import Peer
from meshtrio.services.quotas import user_of
from meshtrio.wire.budget import Budget

_AVERAGE_BYTES = 256
"""Of a registration: a name and a path; the longest ones of both have 363."""
_PER_SECOND = 10.0
"""Sustained rate of one user's registrations. Each of them is sent to all watchers."""
_MAX_HOST = 253
"""Bytes; source: RFC 1035, section 2.3.4, without the length octets."""
_MAX_PATH = 4096
"""Bytes of the path of a TLS file: Linux's PATH_MAX."""
_MAX_BUDGETS = 1000
"""Users whose rate is remembered without a registration of theirs."""


@attrs.define(eq=False)
class Registration:
    """One open call of Register."""

    service: str
    endpoint: Endpoint
    user: str
    size: int
    ended: trio.Event = attrs.field(factory=trio.Event)
    """Set when the mesh ends it; `failure` then says why."""
    failure: purerpc.RpcFailedError | None = None

    def end(self, failure: purerpc.RpcFailedError) -> None:
        self.failure = failure
        self.ended.set()


class Registrations:
    """Those of one mesh. `config` gives its config as it is at the time."""

    def __init__(self, registry: Registry, config: Callable[[], MeshConfig]) -> None:
        self._registry = registry
        self._config = config
        self._ours = frozenset({0, os.geteuid()})
        self._held: dict[str, dict[str, Registration]] = {}
        """By service and address."""
        self._counts: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()
        """By user, as `_counts`."""
        self._rates: dict[str, Budget] = {}
        registry.on_claimed(self._end_unpermitted)

    def is_ours(self, peer: Peer) -> bool:
        """Return whether a peer is the mesh's own user or root."""
        return peer.uid in self._ours

    def check_permitted(self, peer: Peer, service: str, message: Any) -> None:
        """Raise PermissionDeniedError for what a peer may not register."""
        if self.is_ours(peer):
            return
        who = f"access.registry: {peer}"
        unix = message.HasField("path") or message.address.startswith("unix:")
        if peer.uid is None or not unix or message.HasField("tls"):
            raise purerpc.PermissionDeniedError(
                f"{who} may only register Unix sockets, without TLS"
            )
        if message.weight > 1:
            raise purerpc.PermissionDeniedError(f"{who} may only register with weight 1")
        if reason := self._why_not(peer.uid, service):
            raise purerpc.PermissionDeniedError(f"{who} may not register {service}: {reason}")

    def _why_not(self, uid: int, service: str) -> str:
        """Why a user may not serve a service, "" if it may."""
        if self._config().access.registry.lists(service) or not self._registry.knows(service):
            return ""
        state = self._registry.resolve(service)
        if not state.unattended:
            how = "`services` in [mesh.access.registry] can allow it"
            return f"a plugin or the config has that name; {how}"
        others = any(endpoint.owner != uid for endpoint in state.endpoints)
        return "another user serves it" if others else ""

    @contextmanager
    def held(self, service: str, endpoint: Endpoint, peer: Peer) -> Iterator[Registration]:
        """Count a registration during the block; an earlier one of the same address is ended.

        Raises PermissionDeniedError if that is another user's, and ResourceExhaustedError.
        """
        size = len(endpoint.id.encode(errors="replace")) + len(service)
        registration = Registration(service, endpoint, user_of(peer), size)
        before = self._held.get(service, {}).get(endpoint.address)
        if before is not None and before.user != registration.user and not self.is_ours(peer):
            raise purerpc.PermissionDeniedError(
                f"access.registry: {peer} may not replace {endpoint.address}, which another user "
                f"has registered for {service}"
            )
        self._check_limits(registration, before)
        if before is not None:
            text = f"{endpoint.address} was registered for {service} again"
            before.end(purerpc.AbortedError(text))
        self._held.setdefault(service, {})[endpoint.address] = registration
        self._counts[registration.user] += 1
        self._bytes[registration.user] += size
        try:
            yield registration
        finally:
            self._remove(registration)

    def _remove(self, registration: Registration) -> None:
        service, address, user = (
            registration.service,
            registration.endpoint.address,
            registration.user,
        )
        here = self._held.get(service, {})
        if here.get(address) is registration:
            del here[address]
            if not here:
                del self._held[service]
        self._counts[user] -= 1
        self._bytes[user] -= registration.size
        if not self._counts[user]:
            del self._counts[user], self._bytes[user]

    def _check_limits(self, registration: Registration, before: Registration | None) -> None:
        limits, user = self._config().limits, registration.user
        most = limits.max_registrations_per_user
        again = before is not None and before.user == user
        if self._counts[user] - again >= most:
            raise _exhausted(user, f"has {most} registrations", "max_registrations_per_user")
        room = most * _AVERAGE_BYTES
        if self._bytes[user] + registration.size > room:
            text = f"has registrations of {room:,} bytes"
            raise _exhausted(user, text, "max_registrations_per_user")
        here = len(self._held.get(registration.service, {}))
        if before is None and here >= limits.max_endpoints_per_service:
            text = f"has {here} registered endpoints"
            raise _exhausted(registration.service, text, "max_endpoints_per_service")
        if not self._rate_of(user, most).take(trio.current_time()):
            text = f"registers more than {_PER_SECOND:g} endpoints a second"
            raise _exhausted(user, text, "max_registrations_per_user")

    def _rate_of(self, user: str, most: int) -> Budget:
        if user not in self._rates and len(self._rates) >= _MAX_BUDGETS:
            for known in [each for each in self._rates if each not in self._counts]:
                del self._rates[known]
        return self._rates.setdefault(user, Budget(2 * most, _PER_SECOND))

    def _end_unpermitted(self, service: str) -> None:
        """A plugin, the config or the mesh's own user has taken a name: others give it up."""
        for registration in list(self._held.get(service, {}).values()):
            owner = registration.endpoint.owner
            if owner is not None and (reason := self._why_not(owner, service)):
                text = f"access.registry: uid {owner} no longer serves {service}: {reason}"
                registration.end(purerpc.PermissionDeniedError(text))


def check_lengths(message: Any, address: str) -> None:
    """Raise ValueError for addresses and names that cannot be or are too long."""
    where = Address.parse(address)
    path = os.fsencode(where.path)
    if b"\0" in path or len(path) > LONGEST_SOCKET_PATH:
        raise ValueError(
            f"the path of a Unix socket has at most {LONGEST_SOCKET_PATH} bytes, and no NUL; this "
            f"one has {len(path)}"
        )
    for host in (where.host, message.tls.server_name):
        if len(host) > _MAX_HOST or not all(c.isprintable() and c != " " for c in host):
            raise ValueError(f"a host has at most {_MAX_HOST} characters, all of them printable")
    files = (message.tls.ca_path, message.tls.certificate_path, message.tls.key_path)
    if any(len(file.encode()) > _MAX_PATH or "\0" in file for file in files):
        raise ValueError(f"the path of a file has at most {_MAX_PATH} bytes, and no NUL")


def _exhausted(who: str, text: str, setting: str) -> purerpc.ResourceExhaustedError:
    return purerpc.ResourceExhaustedError(
        f"{who} {text}, as many as [mesh.limits] {setting} allows"
    )
