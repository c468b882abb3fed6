"""The meshtrio.v1.Registry servicer: other processes watch services and register endpoints.

The mesh's own user and root may register any name. Other users may register names that no other
user has, or that the config lists, and may not replace registrations of others.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import attrs
import purerpc
import trio

from meshtrio.config import MeshConfig, StaticServiceConfig
from meshtrio.config.validators import check_service_name
from meshtrio.contract import MAX_SOCKET_PATH_LENGTH
from meshtrio.discovery.endpoint import Endpoint, ExitInfo, ServiceState
from meshtrio.discovery.registry import Registry
from meshtrio.discovery.registry_messages import get_address, state_to_message, tls_from_message
from meshtrio.discovery.static import make_external_endpoint
from meshtrio.messages import registry as messages
from meshtrio.rpc.context import ServerContext
from meshtrio.rpc.protobuf_descriptors import service_from_descriptor
from meshtrio.services.broadcast_log import ReaderThrottle
from meshtrio.services.call_quota import get_user_key
from meshtrio.services.kept_registrations import KeptRegistrations
from meshtrio.transport.peer import Peer
from meshtrio.util.address import Address
from meshtrio.util.caches import BoundedCache
from meshtrio.util.text import replace_surrogates
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
_DESCRIPTOR = messages.DESCRIPTOR.services_by_name["Registry"]
_MAX_CACHED_MESSAGES = 1000


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
        self._registrations: dict[tuple[str, str], Registration] = {}
        """Registrations by service and address."""
        self._counts: Counter[str] = Counter()
        """Number of registrations by user."""
        self._sizes: Counter[str] = Counter()
        """Total bytes of the registrations by user."""
        self._endpoint_counts: Counter[str] = Counter()
        """Number of registrations by service."""
        self._rate_limits: dict[str, TokenBucket] = {}
        registry.on_claim = self._revoke_unpermitted

    def check_permitted(self, peer: Peer, service: str, message: Any) -> None:
        """Raise PermissionDeniedError unless a peer may register an endpoint."""
        if peer.is_own_user_or_root:
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
        before = self._registrations.get((service, endpoint.address))
        is_own = before is None or before.user == registration.user
        if not (is_own or peer.is_own_user_or_root):
            raise purerpc.PermissionDeniedError(
                f"access.registry: {peer} may not replace {endpoint.address}, which another user "
                f"has registered for {service}"
            )
        self._check_limits(registration, before)
        if before is not None:
            text = f"{endpoint.address} was registered for {service} again"
            before.revoke(purerpc.AbortedError(text))
            self._count(before, -1)
        self._registrations[service, endpoint.address] = registration
        self._count(registration, 1)
        try:
            yield registration
        finally:
            if self._registrations.get((service, endpoint.address)) is registration:
                del self._registrations[service, endpoint.address]
                self._count(registration, -1)

    def _count(self, registration: Registration, change: int) -> None:
        service, user = registration.service, registration.user
        self._counts[user] += change
        self._sizes[user] += change * registration.size
        self._endpoint_counts[service] += change
        if not self._counts[user]:
            del self._counts[user], self._sizes[user]
        if not self._endpoint_counts[service]:
            del self._endpoint_counts[service]

    def _check_limits(self, registration: Registration, replaced: Registration | None) -> None:
        limits, user = self._get_config().limits, registration.user
        max_count = limits.max_registrations_per_user
        max_size = max_count * _AVERAGE_REGISTRATION_SIZE
        is_own = replaced is not None and replaced.user == user
        size = self._sizes[user] - (replaced.size if replaced and is_own else 0)
        endpoint_count = self._endpoint_counts[registration.service]
        setting = "max_registrations_per_user"
        if self._counts[user] - is_own >= max_count:
            text = f"{user} has {max_count} registrations"
        elif size + registration.size > max_size:
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
            for idle in self._rate_limits.keys() - self._counts.keys():
                del self._rate_limits[idle]
        bucket = TokenBucket(2 * max_registrations, _MAX_REGISTRATIONS_PER_SECOND)
        return self._rate_limits.setdefault(user, bucket)

    def _revoke_unpermitted(self, service: str) -> None:
        """Revoke registrations of a name that a plugin, the config or the mesh's user now has."""
        for registration in [r for r in self._registrations.values() if r.service == service]:
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


class RegistryServicer:
    """Serves a registry. A watcher holds one state, however slowly it reads."""

    def __init__(self, registry: Registry, get_config: Callable[[], MeshConfig]) -> None:
        """Serve a registry; `get_config` returns the current config."""
        self._registry = registry
        self._registrations = Registrations(registry, get_config)
        self.kept = KeptRegistrations(registry)
        """Endpoints whose registrars have yet to register them again after an upgrade."""
        self._reader_throttle = ReaderThrottle()
        self._messages = BoundedCache[str, tuple[ServiceState, Any]](_MAX_CACHED_MESSAGES)
        """The last state and its message by service: it is converted once for all watchers."""
        self.next_serial = 1
        """The number of the next registration."""
        self.service = service_from_descriptor(_DESCRIPTOR, self)

    async def ListServices(self, request: Any) -> Any:  # noqa: N802 - the method's name
        return messages.ListServicesResponse(services=self._registry.services())

    async def Resolve(self, request: Any) -> Any:  # noqa: N802 - the method's name
        state = self._registry.resolve(request.service)
        if request.unreachable_endpoint_id:
            self._registry.report_connect_failure(request.service, request.unreachable_endpoint_id)
        if request.wanted:
            self._registry.report_demand(request.service)
        return self._get_message(request.service, state)

    async def Watch(self, request: Any) -> AsyncIterator[Any]:  # noqa: N802
        with self._reader_throttle:
            async with aclosing(self._registry.watch(request.service)) as states:
                async for state in states:
                    yield self._get_message(request.service, state)
                    await self._reader_throttle.wait()

    def _get_message(self, service: str, state: ServiceState) -> Any:
        cached = self._messages.get(service)
        if cached is not None and cached[0] is state:
            return cached[1]
        message = state_to_message(service, state)
        self._messages[service] = state, message
        return message

    async def Register(self, message: Any, request: ServerContext) -> AsyncIterator[Any]:  # noqa: N802
        service, endpoint = self._make_endpoint(message, request.peer)
        registrar = "a program" if request.peer.pid is None else f"pid {request.peer.pid}"
        with self._registrations.hold(service, endpoint, request.peer) as registration:
            endpoint = self.kept.take(service, endpoint, request.peer)
            try:
                yield messages.RegisterResponse(endpoint_id=replace_surrogates(endpoint.id))
                await registration.revoked.wait()
                assert registration.error is not None
                raise registration.error
            finally:
                if self.kept.is_keeping and registration.error is None:
                    self.kept.keep(service, endpoint)
                else:
                    what = "is gone" if request.is_client_disconnected else "deregistered it"
                    if registration.error is not None:
                        what = f"lost it: {registration.error.status.status_message}"
                    reason = f"{endpoint.address} is not registered any more: {registrar} {what}"
                    self._registry.deregister(service, ExitInfo(endpoint.id, reason))

    def _make_endpoint(self, message: Any, peer: Peer) -> tuple[str, Endpoint]:
        """Make the endpoint of a message. Raises InvalidArgumentError and PermissionDeniedError."""
        try:
            address: Any = get_address(message)
            check_service_name(message.service)
            # Permission comes first: other errors may reveal what exists.
            self._registrations.check_permitted(peer, message.service, message)
            check_lengths(message, address)
            tls = tls_from_message(message.tls) if message.HasField("tls") else None
            local = message.local if message.HasField("local") else None
            name, weight = message.service, message.weight or 1
            table = StaticServiceConfig(name, (address,), weight, local, tls)
            endpoint = make_external_endpoint(address, table.weight, tls, local=local)
        except ValueError as exc:
            raise purerpc.InvalidArgumentError(f"cannot be registered: {exc}") from None
        # An id is never used again, even if the same endpoint is: exit infos name it.
        endpoint_id = f"{endpoint.id} #{self.next_serial}"
        self.next_serial += 1
        server_uid = None if peer.is_own_user_or_root else peer.uid
        return table.name, endpoint.replace(id=endpoint_id, server_uid=server_uid)
