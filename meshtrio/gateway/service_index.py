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
from meshtrio.discovery.endpoint import ServiceState
from meshtrio.discovery.registry import Registry
from meshtrio.services.reflection_files import ReflectionSource
from meshtrio.util.caches import BoundedCache

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


@attrs.define(eq=False)
class _ServiceEntry:
    """What is known of one service of the mesh by reflection."""

    lock: trio.Lock = attrs.field(factory=trio.Lock)
    """Held while the service is asked."""
    reflection: ReflectionSource | None = None
    """The gRPC services and their types, by the last reflection that had a result."""
    endpoint_ids: frozenset[str] = frozenset()
    """The endpoints that the service had at that reflection."""
    checked_state: ServiceState | None = None
    """The last state that was found to have no new endpoints."""
    error: str | None = None
    """Why the last reflection failed."""
    backoff: tuple[ServiceState, float] | None = None
    """The state with which the reflection failed, and when to repeat it."""
    is_unreachable: bool = False
    """Whether the last reflection was not answered."""
    declaration_count: int = 0
    """Number of types and fields; see `client.descriptor_pool_builder`."""


@attrs.define(eq=False)
class ServiceIndex:
    """Asks plugins by reflection, and only when a call or a reflection of the gateway needs it."""

    _registry: Registry
    get_configured_services: Callable[[], Mapping[str, Iterable[str]]]
    """Returns, by service of the mesh, the gRPC services that the config lists for it; the same
    object until that changes."""
    _open_channel: Callable[[str], AbstractAsyncContextManager[Channel]]
    """Opens a channel to a service, for reflection."""
    _entries: dict[str, _ServiceEntry] = attrs.field(factory=dict)
    """The services that were asked, or are being asked, in the order of the first time."""
    _lookup_cache: BoundedCache[str, str] = attrs.field(
        factory=lambda: BoundedCache(_MAX_CACHED_LOOKUPS)
    )
    """The service of the mesh by gRPC service; cleared when anything changes."""
    changes: int = 0
    """Number of changes of what the index knows, apart from those of config and registry."""
    _lookup_cache_version: tuple[Mapping[str, Iterable[str]], int] | None = None
    _conflicts: dict[frozenset[str], frozenset[str]] = attrs.field(factory=dict)
    """The gRPC services that both of a pair of services claim, by pair, as they were logged."""

    def find_services(self, name: str) -> list[str]:
        """Return the services of the mesh that serve a gRPC service, the preferred one first.

        The config overrides reflection; reflection of managed services overrides that of others.
        """
        configured = self._find_configured(name)
        known = self._list_by_precedence()
        indexed = [service for service in known if name in known[service].services]
        managed = [service for service in indexed if self._registry.is_managed(service)]
        for candidates in (configured, managed, indexed if self._is_complete else []):
            found = [service for service in candidates if self._registry.has_service(service)]
            if found:
                return found
        return []

    def _find_configured(self, name: str) -> list[str]:
        return [
            service for service, names in self.get_configured_services().items() if name in names
        ]

    def _list_by_precedence(self) -> dict[str, ReflectionSource]:
        """Return the indexed services: those of the config in its order, then the others.

        Reflection is a claim of the service itself: a second service with the same claim must not
        divert the calls of the first. So the others follow in the order of their first reflection.
        """
        found = {}
        for service in (*self.get_configured_services(), *self._entries):
            entry = self._entries.get(service)
            if entry is not None and entry.reflection is not None:
                found[service] = entry.reflection
        return found

    @property
    def _is_complete(self) -> bool:
        """Whether the reflection of every managed service was tried."""
        known = self.get_configured_services()
        return all(
            service in known or self._was_asked(service)
            for service in self._registry.services()
            if self._registry.is_managed(service)
        )

    def _was_asked(self, service: str) -> bool:
        entry = self._entries.get(service)
        return entry is not None and not (entry.reflection is None and entry.error is None)

    def lookup(self, name: str) -> str | None:
        """Return the one service of the mesh that serves a gRPC service, if it is known."""
        version = (self.get_configured_services(), self._registry.revision)
        if version != self._lookup_cache_version:
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
        before = itertools.takewhile(lambda each: each != service, self.get_configured_services())
        return any(not self._was_asked(each) and self.is_stale(each) for each in before)

    def is_stale(self, service: str) -> bool:
        """Return whether a service has endpoints that it did not have at its last reflection."""
        if not self._registry.has_service(service):
            return False
        state, entry = self._registry.resolve(service), self._entries.get(service)
        if entry is not None and entry.backoff is not None:
            failed_state, retry_at = entry.backoff
            if failed_state is state and trio.current_time() < retry_at:
                return False
        if entry is None or entry.reflection is None:
            return bool(state.endpoints)
        if entry.checked_state is not state:
            if any(endpoint.id not in entry.endpoint_ids for endpoint in state.endpoints):
                return True
            entry.checked_state = state
        return False

    def is_up_to_date(self, service: str) -> bool:
        """Return whether a reflection is neither due now, nor to be repeated at some time."""
        entry = self._entries.get(service)
        is_awaiting_retry = entry is not None and entry.backoff is not None
        return not is_awaiting_retry and not self.is_stale(service)

    def is_refreshing(self, service: str) -> bool:
        """Return whether the reflection of a service is under way."""
        return service in self._entries and self._entries[service].lock.locked()

    def remove(self, service: str) -> None:
        """Forget a service that is gone."""
        self._entries.pop(service, None)
        for pair in [pair for pair in self._conflicts if service in pair]:
            del self._conflicts[pair]
        self._lookup_cache.clear()
        self.changes += 1

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
        indexed = self._list_by_precedence().values()
        claims = (*(each.services for each in indexed), *self.get_configured_services().values())
        known = itertools.chain.from_iterable(claims)
        text = (
            f"no service of this mesh serves {name}; known gRPC services: "
            f"{_format_names(known) or 'none'}"
        )
        services = self._registry.services()
        entries = {s: self._entries[s] for s in services if s in self._entries}
        failed = [f"{service} ({each.error})" for service, each in entries.items() if each.error]
        waiting = [service for service in services if not self._was_asked(service)]
        if failed:
            text += f"; unknown services of {_format_names(failed)}"
        if any(each.is_unreachable and each.reflection is None for each in entries.values()):
            return purerpc.UnavailableError(text)
        if waiting:
            return purerpc.UnavailableError(f"{text}; not ready yet: {_format_names(waiting)}")
        return purerpc.UnimplementedError(text)

    async def list_reflection_sources(self) -> list[ReflectionSource]:
        """Return the gRPC services and types of each service of the mesh, after a refresh."""
        await self.refresh()
        known = self._list_by_precedence()
        return [known[each] for each in known if self._registry.has_service(each)]

    async def refresh(self) -> None:
        """Ask each service that is unknown or has new endpoints."""
        async with trio.open_nursery() as nursery:
            for service in self._registry.services():
                if self.is_stale(service):
                    # Tasks start in any order, and the order of entries is that of precedence.
                    self._entries.setdefault(service, _ServiceEntry())
                    nursery.start_soon(self.refresh_service, service)

    async def refresh_service(self, service: str) -> None:
        """Ask one service for its gRPC services. What was known stays if that fails."""
        entry = self._entries.setdefault(service, _ServiceEntry())
        async with entry.lock:
            if not self.is_stale(service):
                return
            state = self._registry.resolve(service)
            found, reason = await self._query_reflection(service, entry, state)
            if self._entries.get(service) is not entry:
                return  # It was removed meanwhile.
            if entry.backoff is None or found.services:
                entry.reflection, entry.checked_state = found, state
                entry.endpoint_ids = frozenset(endpoint.id for endpoint in state.endpoints)
                self._lookup_cache.clear()
                self.changes += 1
                self._log_conflicts(service, found)
            if reason is not None and entry.error != reason:
                _log.info("cannot list services of %s: %s", service, reason)
            entry.error = reason

    async def _query_reflection(
        self, service: str, entry: _ServiceEntry, state: ServiceState
    ) -> tuple[ReflectionSource, str | None]:
        """Return what a service answers, and why that is incomplete.

        A reflection that failed is repeated after a while, or when the service changes.
        """
        entry.is_unreachable, entry.backoff = False, None
        found = ReflectionSource(service, frozenset())
        try:
            with trio.fail_after(_REFLECTION_TIMEOUT):
                async with self._open_channel(service) as channel:
                    names = [
                        name
                        for name in await list_services(channel)
                        if is_full_name(name) and not name.startswith(_COMMON_SERVICE_PREFIXES)
                    ]
                    found = attrs.evolve(found, services=frozenset(names))
                    types = await _describe_services(service, channel, names)
                    if types is not None:
                        self._reserve_declarations(service, entry, types.declaration_count)
                        found = attrs.evolve(found, pool=types.pool)
            return found, None
        except ReflectionError as exc:
            return found, f"{exc}; its config can list `services = […]`"
        except purerpc.RpcFailedError as exc:
            unreachable = purerpc.UnavailableError | purerpc.ResourceExhaustedError
            entry.is_unreachable = isinstance(exc, unreachable)
            reason = str(exc.status.status_message)
        except trio.TooSlowError:
            entry.is_unreachable = True
            reason = f"it did not answer within {_REFLECTION_TIMEOUT:g} s"
        except Exception as exc:
            # A plugin's response must not end the gateway's tasks.
            reason = f"its reflection cannot be used: {exc!r:.200}"
        entry.backoff = state, trio.current_time() + _RETRY_INTERVAL
        return found, reason

    def _reserve_declarations(self, service: str, entry: _ServiceEntry, count: int) -> None:
        """Count the types of a service. Raises ReflectionError above the limit for all services."""
        entry.declaration_count = 0
        total = sum(each.declaration_count for each in self._entries.values())
        if total + count > _MAX_DECLARATIONS:
            raise ReflectionError(
                f"{service} declares {count:,} types and fields, which exceeds the limit of "
                f"{_MAX_DECLARATIONS:,} for all services of the mesh"
            )
        entry.declaration_count = count

    def _log_conflicts(self, service: str, reflection: ReflectionSource) -> None:
        """Log the gRPC services that others claim, too, unless that was logged."""
        known = self._list_by_precedence()
        for other, each in known.items():
            pair, names = frozenset((service, other)), reflection.services & each.services
            if other == service or names == self._conflicts.get(pair, frozenset()):
                continue
            self._conflicts[pair] = names
            if not names:
                del self._conflicts[pair]
                continue
            first, second = (name for name in known if name in pair)
            managed = [name for name in (first, second) if self._registry.is_managed(name)]
            _log.warning(
                "%s and %s both claim %s: calls without a target go to %s, unless `services` in "
                "the config overrides it",
                first,
                second,
                _format_names(names),
                (managed or [first])[0],
            )


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
    ordered = sorted(set(names))
    hidden = len(ordered) - _MAX_LISTED_NAMES
    return ", ".join(ordered[:_MAX_LISTED_NAMES]) + (f" and {hidden} more" if hidden > 0 else "")
