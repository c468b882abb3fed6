"""Permissions and limits of the endpoints that programs register.

The mesh's own user and root may register any name. Other users may register names that no other
user has, or that the config lists, and may not replace registrations of others.
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

from meshtrio.config import MeshConfig
from meshtrio.contract import MAX_SOCKET_PATH_LENGTH
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.services.call_quota import get_user_key
from meshtrio.transport.peer import Peer
from meshtrio.util.address import Address
from meshtrio.util.token_bucket import TokenBucket

_AVERAGE_REGISTRATION_SIZE = 256
"""Average bytes of a registration's name and path by which their total is limited; at most 363."""
_MAX_REGISTRATIONS_PER_SECOND = 10.0
"""Sustained rate of one user's registrations: each is sent to all watchers."""
_MAX_HOST_LENGTH = 253
"""Maximum bytes of a host. Source: RFC 1035 §2.3.4, without the length octets."""
_MAX_PATH_LENGTH = 4096
"""Maximum bytes of the path of a TLS file: Linux's PATH_MAX."""
_MAX_RATE_LIMITS = 1000
"""Maximum number of users whose rate is limited; those without registrations are dropped first."""


@attrs.define(eq=False)
class Registration:
    """A registered endpoint: one open call of Register."""

    service: str
    endpoint: Endpoint
    user: str
    """The user that registered it; see `get_user_key`."""
    size: int
    """Bytes of its name and address."""
    revoked: trio.Event = attrs.field(factory=trio.Event)
    """Set when the mesh revokes the registration."""
    error: purerpc.RpcFailedError | None = None
    """Why the registration was revoked."""

    def revoke(self, error: purerpc.RpcFailedError) -> None:
        """End the call of Register with an error."""
        self.error = error
        self.revoked.set()


class Registrations:
    """The registrations of one mesh; `get_config` returns the current config."""

    def __init__(self, registry: Registry, get_config: Callable[[], MeshConfig]) -> None:
        self._registry = registry
        self._get_config = get_config
        self._own_uids = frozenset({0, os.geteuid()})
        self._registrations: dict[str, dict[str, Registration]] = {}
        """Registrations by service and address."""
        self._counts: Counter[str] = Counter()
        """Number of registrations by user."""
        self._sizes: Counter[str] = Counter()
        """Total bytes of the registrations by user."""
        self._rate_limits: dict[str, TokenBucket] = {}
        registry.on_claim = self._revoke_unpermitted

    def is_privileged(self, peer: Peer) -> bool:
        """Return whether a peer is the mesh's own user or root."""
        return peer.uid in self._own_uids

    def check_permitted(self, peer: Peer, service: str, message: Any) -> None:
        """Raise PermissionDeniedError unless a peer may register an endpoint."""
        if self.is_privileged(peer):
            return
        is_unix = message.HasField("path") or message.address.startswith("unix:")
        if peer.uid is None or not is_unix or message.HasField("tls"):
            text = "may only register Unix sockets, without TLS"
        elif message.weight > 1:
            text = "may only register with weight 1"
        elif reason := self._get_denial_reason(peer.uid, service):
            text = f"may not register {service}: {reason}"
        else:
            return
        raise purerpc.PermissionDeniedError(f"access.registry: {peer} {text}")

    def _get_denial_reason(self, uid: int, service: str) -> str:
        """Return why a user may not serve a service, "" if it may."""
        rules = self._get_config().access.registry
        if rules.includes_service(service) or not self._registry.has_service(service):
            return ""
        state = self._registry.resolve(service)
        if not state.unmanaged:
            hint = "`services` in [mesh.access.registry] can allow it"
            return f"a plugin or the config has that name; {hint}"
        has_others = any(endpoint.server_uid != uid for endpoint in state.endpoints)
        return "another user serves it" if has_others else ""

    @contextmanager
    def hold(self, service: str, endpoint: Endpoint, peer: Peer) -> Iterator[Registration]:
        """Hold a registration during the block; an earlier one of the same address is revoked.

        Raises PermissionDeniedError if the earlier one is of another user, ResourceExhaustedError
        if the user is over a limit.
        """
        size = len(endpoint.id.encode(errors="replace")) + len(service)
        registration = Registration(service, endpoint, get_user_key(peer), size)
        before = self._registrations.get(service, {}).get(endpoint.address)
        if before is not None and before.user != registration.user and not self.is_privileged(peer):
            raise purerpc.PermissionDeniedError(
                f"access.registry: {peer} may not replace {endpoint.address}, which another user "
                f"has registered for {service}"
            )
        self._check_limits(registration, before)
        if before is not None:
            text = f"{endpoint.address} was registered for {service} again"
            before.revoke(purerpc.AbortedError(text))
        self._registrations.setdefault(service, {})[endpoint.address] = registration
        self._counts[registration.user] += 1
        self._sizes[registration.user] += size
        try:
            yield registration
        finally:
            self._remove(registration)

    def _remove(self, registration: Registration) -> None:
        service, user = registration.service, registration.user
        here = self._registrations.get(service, {})
        if here.get(registration.endpoint.address) is registration:
            del here[registration.endpoint.address]
            if not here:
                del self._registrations[service]
        self._counts[user] -= 1
        self._sizes[user] -= registration.size
        if not self._counts[user]:
            del self._counts[user], self._sizes[user]

    def _check_limits(self, registration: Registration, replaced: Registration | None) -> None:
        limits, user = self._get_config().limits, registration.user
        max_count, count = limits.max_registrations_per_user, self._counts[user]
        max_size = max_count * _AVERAGE_REGISTRATION_SIZE
        endpoint_count = len(self._registrations.get(registration.service, {}))
        setting = "max_registrations_per_user"
        if count - (replaced is not None and replaced.user == user) >= max_count:
            text = f"{user} has {max_count} registrations"
        elif self._sizes[user] + registration.size > max_size:
            text = f"{user} has registrations of {max_size:,} bytes"
        elif replaced is None and endpoint_count >= limits.max_endpoints_per_service:
            text = f"{registration.service} has {endpoint_count} registered endpoints"
            setting = "max_endpoints_per_service"
        elif not self._get_rate_limit(user, max_count).try_acquire(trio.current_time()):
            rate = f"{_MAX_REGISTRATIONS_PER_SECOND:g}"
            text = f"{user} registers more than {rate} endpoints a second"
        else:
            return
        text = f"{text}, the maximum of [mesh.limits] {setting}"
        raise purerpc.ResourceExhaustedError(text)

    def _get_rate_limit(self, user: str, max_registrations: int) -> TokenBucket:
        if user not in self._rate_limits and len(self._rate_limits) >= _MAX_RATE_LIMITS:
            for known in [each for each in self._rate_limits if each not in self._counts]:
                del self._rate_limits[known]
        bucket = TokenBucket(2 * max_registrations, _MAX_REGISTRATIONS_PER_SECOND)
        return self._rate_limits.setdefault(user, bucket)

    def _revoke_unpermitted(self, service: str) -> None:
        """Revoke registrations of a name that a plugin, the config or the mesh's user now has."""
        for registration in list(self._registrations.get(service, {}).values()):
            owner = registration.endpoint.server_uid
            if owner is not None and (reason := self._get_denial_reason(owner, service)):
                text = f"access.registry: uid {owner} no longer serves {service}: {reason}"
                registration.revoke(purerpc.PermissionDeniedError(text))


def check_lengths(message: Any, address: str) -> None:
    """Raise ValueError for invalid or too long addresses and names."""
    parsed = Address.parse(address)
    path = os.fsencode(parsed.path)
    if b"\0" in path or len(path) > MAX_SOCKET_PATH_LENGTH:
        raise ValueError(
            f"the path of a Unix socket has at most {MAX_SOCKET_PATH_LENGTH} bytes, and no NUL; "
            f"this one has {len(path)}"
        )
    for host in (parsed.host, message.tls.server_name):
        if len(host) > _MAX_HOST_LENGTH or not all(c.isprintable() and c != " " for c in host):
            text = f"a host has at most {_MAX_HOST_LENGTH} characters, all of them printable"
            raise ValueError(text)
    files = (message.tls.ca_path, message.tls.certificate_path, message.tls.key_path)
    if any(len(file.encode()) > _MAX_PATH_LENGTH or "\0" in file for file in files):
        raise ValueError(f"the path of a file has at most {_MAX_PATH_LENGTH} bytes, and no NUL")
