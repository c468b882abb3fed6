"""Finds the service of the mesh that serves a gRPC service, from the config or by reflection."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager

import attrs
import purerpc
import trio

from meshtrio.client.channel import Channel
from meshtrio.client.descriptor_pool_builder import ReflectedTypes
from meshtrio.client.reflection import ReflectionError, fetch_types, is_full_name, list_services
from meshtrio.discovery.registry import Registry
from meshtrio.discovery.service_state import ServiceState
from meshtrio.services.reflection_files import ReflectionSource
from meshtrio.util.bounded_cache import BoundedCache

_log = logging.getLogger("meshtrio.gateway")

_COMMON_SERVICE_PREFIXES = ("grpc.health.", "grpc.reflection.", "grpc.channelz.", "meshtrio.v1.")
"""gRPC services that any server may have, which are not indexed."""
_REFLECTION_TIMEOUT = 2.0
"""Timeout of the reflection of a plugin, in seconds."""
_RETRY_INTERVAL = 5.0
"""Seconds until a failed reflection is repeated while the service is unchanged."""
_MAX_LISTED_NAMES = 20
"""Maximum number of names in a message."""
_MAX_CACHED_LOOKUPS = 10_000
_MAX_DECLARATIONS = 200_000
"""Maximum number of types and fields of all services together: protobuf takes up to 160 MB."""


@attrs.define
class IndexedService:
    """What is known of one service of the mesh by reflection."""

    checked_state: ServiceState
    """The last state that was found to have no new endpoints."""
    endpoint_ids: frozenset[str]
    """The endpoints that the service had at its reflection."""
    reflection: ReflectionSource
    """The gRPC services and their types."""

    @property
    def grpc_services(self) -> frozenset[str]:
        """The names of the gRPC services."""
        return self.reflection.services


class ServiceIndex:
    """Asks plugins by reflection, and only when a call or a reflection of the gateway needs it."""

    def __init__(
        self,
        registry: Registry,
        configured_services: Callable[[], Mapping[str, Iterable[str]]],
        open_channel: Callable[[str], AbstractAsyncContextManager[Channel]],
    ) -> None:
        """Initialize an empty index.

        Args:
            registry: The services of the mesh.
            configured_services: Returns, by service of the mesh, the gRPC services that the config
                lists for it.
            open_channel: Opens a channel to a service, for reflection.
        """
        self._registry = registry
        self._configured_services = configured_services
        self._open_channel = open_channel
        self._indexed: dict[str, IndexedService] = {}
        self._declaration_counts: dict[str, int] = {}
        """Number of types and fields by service; see `client.descriptor_pool_builder`."""
        self._errors: dict[str, str] = {}
        """Reasons why the reflection of a service failed, by service."""
        self._backoffs: dict[str, tuple[ServiceState, float]] = {}
        """The state with which a service's reflection failed, and when to repeat it, by service."""
        self._unreachable: set[str] = set()
        """Services whose last reflection was not answered."""
        self._refresh_locks: dict[str, trio.Lock] = {}
        """One lock for each service, in the order of their first reflections."""
        self._lookup_cache: BoundedCache[str, str] = BoundedCache(_MAX_CACHED_LOOKUPS)
        """The service of the mesh by gRPC service; cleared when anything changes."""
        self._conflicts: dict[frozenset[str], frozenset[str]] = {}
        """The gRPC services that both of a pair of services claim, by pair."""
        self._lookup_cache_version = configured_services(), registry.revision

    def find_services(self, name: str) -> list[str]:
        """Return the services of the mesh that serve a gRPC service, the preferred one first.

        The config overrides reflection; reflection of managed services overrides that of others.
        """
        configured = self._find_configured(name)
        indexed = [s for s in self._list_by_precedence() if name in self._indexed[s].grpc_services]
        managed = [service for service in indexed if self._is_managed(service)]
        for candidates in (configured, managed, indexed if self._is_complete else []):
            known = [service for service in candidates if self._registry.has_service(service)]
            if known:
                return known
        return []

    def _find_configured(self, name: str) -> list[str]:
        return [service for service, names in self._configured_services().items() if name in names]

    def _list_by_precedence(self) -> list[str]:
        """Return the indexed services: those of the config in its order, then the others.

        Reflection is a claim of the service itself: a second service with the same claim must not
        divert the calls of the first. So the others follow in the order of their first reflection.
        """
        known = dict.fromkeys((*self._configured_services(), *self._refresh_locks))
        return [service for service in known if service in self._indexed]

    def _is_managed(self, service: str) -> bool:
        if not self._registry.has_service(service):
            return False
        return not self._registry.resolve(service).unmanaged

    @property
    def _is_complete(self) -> bool:
        """Whether the reflection of every managed service was tried."""
        asked = self._indexed.keys() | self._errors.keys() | self._configured_services().keys()
        return all(s in asked for s in self._registry.services() if self._is_managed(s))

    def lookup(self, name: str) -> str | None:
        """Return the one service of the mesh that serves a gRPC service, if it is known."""
        version = (self._configured_services(), self._registry.revision)
        if (
            version[0] is not self._lookup_cache_version[0]
            or version[1] != self._lookup_cache_version[1]
        ):
            self._lookup_cache_version = version
            self._lookup_cache.clear()
        service = self._lookup_cache.get(name)
        if service is not None and self._registry.has_service(service):
            return service
        found = self.find_services(name)
        if (
            not found
            or self._is_ambiguous(name, found)
            or self._has_unqueried_predecessor(name, found[0])
        ):
            return None
        self._lookup_cache[name] = found[0]
        return found[0]

    def _is_ambiguous(self, name: str, found: list[str]) -> bool:
        """Return whether the config lists several services for one gRPC service."""
        return len(found) > 1 and found[0] in self._find_configured(name)

    def _has_unqueried_predecessor(self, name: str, service: str) -> bool:
        """Return whether a service with precedence is ready and was not asked yet."""
        if service in self._find_configured(name):
            return False
        asked = self._indexed.keys() | self._errors.keys()
        before = itertools.takewhile(lambda each: each != service, self._configured_services())
        return any(each not in asked and self.is_stale(each) for each in before)

    def is_stale(self, service: str) -> bool:
        """Return whether a service has endpoints that it did not have at its last reflection."""
        if not self._registry.has_service(service):
            return False
        state, indexed = self._registry.resolve(service), self._indexed.get(service)
        failed = self._backoffs.get(service)
        if failed is not None and failed[0] is state and trio.current_time() < failed[1]:
            return False
        if indexed is None:
            return bool(state.endpoints)
        if indexed.checked_state is not state:
            if any(endpoint.id not in indexed.endpoint_ids for endpoint in state.endpoints):
                return True
            indexed.checked_state = state
        return False

    def is_refreshing(self, service: str) -> bool:
        """Return whether the reflection of a service is under way."""
        return service in self._refresh_locks and self._refresh_locks[service].locked()

    def remove(self, service: str) -> None:
        """Forget a service that is gone."""
        for by_service in (
            self._indexed,
            self._declaration_counts,
            self._errors,
            self._backoffs,
            self._refresh_locks,
        ):
            by_service.pop(service, None)
        self._unreachable.discard(service)
        self._conflicts = {
            pair: names for pair, names in self._conflicts.items() if service not in pair
        }
        self._lookup_cache.clear()

    async def lookup_or_refresh(self, name: str) -> str:
        """Return the one service of the mesh that serves a gRPC service, asking plugins if needed.

        Raises:
            purerpc.UnimplementedError: No service does.
            purerpc.UnavailableError: A service that cannot be asked now may.
            purerpc.FailedPreconditionError: The config lists several.
        """
        found = self.find_services(name)
        if not found or self._has_unqueried_predecessor(name, found[0]):
            await self.refresh()
            found = self.find_services(name)
        if found and not self._is_ambiguous(name, found):
            return found[0]
        if found:
            raise purerpc.FailedPreconditionError(
                f"{name} is served by {_format_names(found)}; choose one with the metadata key "
                "x-mesh-target, or as :authority"
            )
        raise self._make_lookup_error(name)

    def _make_lookup_error(self, name: str) -> purerpc.RpcFailedError:
        known = {each for indexed in self._indexed.values() for each in indexed.grpc_services}
        known |= {each for names in self._configured_services().values() for each in names}
        text = (
            f"no service of this mesh serves {name}; known gRPC services: "
            f"{_format_names(known) or 'none'}"
        )
        services = self._registry.services()
        errors = {service: self._errors.get(service) for service in services}
        failed = [f"{service} ({error})" for service, error in errors.items() if error]
        waiting = [s for s in services if s not in self._indexed and s not in self._errors]
        if failed:
            text += f"; unknown services of {_format_names(failed)}"
        if self._unreachable.intersection(services) - self._indexed.keys():
            return purerpc.UnavailableError(text)
        if waiting:
            return purerpc.UnavailableError(f"{text}; not ready yet: {_format_names(waiting)}")
        return purerpc.UnimplementedError(text)

    async def list_reflection_sources(self) -> list[ReflectionSource]:
        """Return the gRPC services and types of each service of the mesh, after a refresh."""
        await self.refresh()
        return [
            self._indexed[service].reflection
            for service in self._list_by_precedence()
            if self._registry.has_service(service)
        ]

    async def refresh(self) -> None:
        """Ask each service that is unknown or has new endpoints."""
        async with trio.open_nursery() as nursery:
            for service in self._registry.services():
                if self.is_stale(service):
                    # Tasks start in any order, and the order of the locks is that of precedence.
                    self._refresh_locks.setdefault(service, trio.Lock())
                    nursery.start_soon(self.refresh_service, service)

    async def refresh_service(self, service: str) -> None:
        """Ask one service for its gRPC services. What was known stays if that fails."""
        async with self._refresh_locks.setdefault(service, trio.Lock()):
            if not self.is_stale(service):
                return
            state = self._registry.resolve(service)
            ids = frozenset(endpoint.id for endpoint in state.endpoints)
            indexed = IndexedService(state, ids, ReflectionSource(service, frozenset()))
            self._unreachable.discard(service)
            try:
                with trio.fail_after(_REFLECTION_TIMEOUT):
                    await self._query_reflection(service, indexed)
                self._store(service, indexed)
                self._errors.pop(service, None)
            except ReflectionError as exc:
                self._store(service, indexed)
                self._set_error(service, f"{exc}; its config can list `services = […]`")
            except purerpc.RpcFailedError as exc:
                if isinstance(exc, purerpc.UnavailableError | purerpc.ResourceExhaustedError):
                    self._unreachable.add(service)
                self._schedule_retry(service, indexed, exc.status.status_message)
            except trio.TooSlowError:
                self._unreachable.add(service)
                self._schedule_retry(
                    service, indexed, f"it did not answer within {_REFLECTION_TIMEOUT:g} s"
                )
            except Exception as exc:
                # A plugin's response must not end the gateway's tasks.
                self._schedule_retry(
                    service, indexed, f"its reflection cannot be used: {exc!r:.200}"
                )

    def _schedule_retry(self, service: str, indexed: IndexedService, reason: str) -> None:
        """Repeat a failed reflection after a while, or when the service changes."""
        self._backoffs[service] = indexed.checked_state, trio.current_time() + _RETRY_INTERVAL
        if indexed.grpc_services:
            self._store(service, indexed)
        self._set_error(service, reason)

    def _set_error(self, service: str, reason: str) -> None:
        if self._errors.get(service) != reason:
            _log.info("cannot list services of %s: %s", service, reason)
        self._errors[service] = reason

    def _store(self, service: str, indexed: IndexedService) -> None:
        self._indexed[service] = indexed
        self._lookup_cache.clear()
        self._log_conflicts(service)

    def _log_conflicts(self, service: str) -> None:
        """Log the gRPC services that others claim, too, unless that was logged."""
        claimed = self._indexed[service].grpc_services
        others = {
            other: claimed & indexed.grpc_services
            for other, indexed in self._indexed.items()
            if other != service
        }
        conflicts = {frozenset((service, other)): names for other, names in others.items() if names}
        for pair, names in conflicts.items():
            if self._conflicts.get(pair) != names:
                first, second = (s for s in self._list_by_precedence() if s in pair)
                text = (
                    "%s and %s both claim %s: calls without a target go to %s, unless `services` in"
                )
                text += " the config overrides it"
                preferred = self._get_preferred(first, second)
                _log.warning(text, first, second, _format_names(names), preferred)
        self._conflicts = {
            pair: names for pair, names in self._conflicts.items() if service not in pair
        } | conflicts

    def _get_preferred(self, first: str, second: str) -> str:
        """Return the preferred one of two services: a managed one, else the first."""
        return first if self._is_managed(first) or not self._is_managed(second) else second

    async def _query_reflection(self, service: str, indexed: IndexedService) -> None:
        async with self._open_channel(service) as channel:
            listed_names = await list_services(channel)
            names = [
                n
                for n in listed_names
                if is_full_name(n) and not n.startswith(_COMMON_SERVICE_PREFIXES)
            ]
            indexed.reflection = ReflectionSource(service, frozenset(names))
            types = await _describe_services(service, channel, names)
            if types is not None:
                self._reserve_declarations(service, types)
                indexed.reflection = ReflectionSource(service, frozenset(names), types.pool)

    def _reserve_declarations(self, service: str, types: ReflectedTypes) -> None:
        """Count the types of a service. Raises ReflectionError above the limit for all services."""
        self._declaration_counts.pop(service, None)
        if sum(self._declaration_counts.values()) + types.declaration_count > _MAX_DECLARATIONS:
            raise ReflectionError(
                f"{service} declares {types.declaration_count:,} types and fields, which exceeds "
                f"the limit of {_MAX_DECLARATIONS:,} for all services of the mesh"
            )
        self._declaration_counts[service] = types.declaration_count


async def _describe_services(
    service: str, channel: Channel, names: list[str]
) -> ReflectedTypes | None:
    """Return the types of a service of the mesh, except those that it cannot describe."""
    try:
        return await fetch_types(channel, *names)
    except ReflectionError as exc:
        _log.warning("cannot use types of %s: %s", service, exc)
    described = []
    for name in names:
        with contextlib.suppress(ReflectionError):
            await fetch_types(channel, name)
            described.append(name)
    with contextlib.suppress(ReflectionError):
        return await fetch_types(channel, *described)
    return None


def _format_names(names: Iterable[str]) -> str:
    ordered = sorted(names)
    hidden = len(ordered) - _MAX_LISTED_NAMES
    return ", ".join(ordered[:_MAX_LISTED_NAMES]) + (f" and {hidden} more" if hidden > 0 else "")
