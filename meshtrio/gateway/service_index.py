"""Which service of the mesh serves which gRPC service: by the config, or by what it says itself."""

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
from meshtrio.client.reflection import (
    ReflectionError,
    fetch_types,
    is_full_name,
    list_services,
)
from meshtrio.discovery.registry import Registry
from meshtrio.discovery.service_state import ServiceState
from meshtrio.services.reflection_files import ReflectionSource

_log = logging.getLogger("meshtrio.gateway")

_COMMON_SERVICE_PREFIXES = ("grpc.health.", "grpc.reflection.", "grpc.channelz.", "meshtrio.v1.")
"""What every server may have: no reason to pass a call on to it."""
_REFLECTION_TIMEOUT = 2.0
"""Seconds that a plugin has to describe itself."""
_RETRY_INTERVAL = 5.0
_MAX_LISTED_NAMES = 20
_MAX_CACHED_LOOKUPS = 10_000
_MAX_DECLARATIONS = 200_000
"""Of all services together, for which protobuf takes up to 160 MB."""


@attrs.define
class IndexedService:
    """What the endpoints of a service have said."""

    checked_state: ServiceState
    """The last that is known to bring nothing new."""
    endpoint_ids: frozenset[str]
    reflection: ReflectionSource
    """Its gRPC services and their types."""

    @property
    def grpc_services(self) -> frozenset[str]:
        """Of its gRPC services."""
        return self.reflection.services


class ServiceIndex:
    """Asks when it has to: a plugin that nobody calls through the gateway is asked nothing."""

    def __init__(
        self,
        registry: Registry,
        configured_services: Callable[[], Mapping[str, Iterable[str]]],
        open_channel: Callable[[str], AbstractAsyncContextManager[Channel]],
    ) -> None:
        """`configured`: by service of the mesh, what the config says it serves.

        `open_channel` is for questions: they are no calls of the service's users.
        """
        self._registry = registry
        self._configured_services = configured_services
        self._open_channel = open_channel
        self._indexed: dict[str, IndexedService] = {}
        self._declaration_counts: dict[str, int] = {}
        """How much there is in the types of a service, see `client.described_files`."""
        self._errors: dict[str, str] = {}
        """Why nothing is known of a service."""
        self._backoffs: dict[str, tuple[ServiceState, float]] = {}
        """The state that was asked of in vain, and until when that is not done again."""
        self._unreachable: set[str] = set()
        """Services that gave no answer when they were asked: nothing is known of them yet."""
        self._refresh_locks: dict[str, trio.Lock] = {}
        """In the order in which services were first asked."""
        self._lookup_cache: dict[str, str] = {}
        """Where calls to a gRPC service go; made anew when anything changes."""
        self._conflicts: dict[frozenset[str], frozenset[str]] = {}
        """By pair of services: the gRPC services that both claim."""
        self._lookup_cache_version = configured_services(), registry.revision

    def find_services(self, name: str) -> list[str]:
        """The services of the mesh that serve a gRPC service, the preferred one first.

        What the config says overrides what plugins say, and these override registered programs.
        """
        configured = self._find_configured(name)
        learned = [s for s in self._list_by_precedence() if name in self._indexed[s].grpc_services]
        attended = [service for service in learned if self._is_managed(service)]
        for found in (configured, attended, learned if self._is_complete else []):
            here = [service for service in found if self._registry.has_service(service)]
            if here:
                return here
        return []

    def _find_configured(self, name: str) -> list[str]:
        return [service for service, names in self._configured_services().items() if name in names]

    def _list_by_precedence(self) -> list[str]:
        """The services that have been asked, in the order of the config.

        A service's reflection is its own claim: that another claims the same must not break or
        divert its calls. Services that are not in the config follow in the order in which they
        were first asked, so that no name overtakes another.
        """
        known = dict.fromkeys((*self._configured_services(), *self._refresh_locks))
        return [service for service in known if service in self._indexed]

    def _is_managed(self, service: str) -> bool:
        knows = self._registry.has_service(service)
        return knows and not self._registry.resolve(service).unmanaged

    @property
    def _is_complete(self) -> bool:
        """Whether everyone who is attended to has been asked, at some time."""
        asked = self._indexed.keys() | self._errors.keys() | self._configured_services().keys()
        return all(s in asked for s in self._registry.services() if self._is_managed(s))

    def lookup(self, name: str) -> str | None:
        """The one service of the mesh that is known to serve a gRPC service; see `find`."""
        routed_by = (self._configured_services(), self._registry.revision)
        if (
            routed_by[0] is not self._lookup_cache_version[0]
            or routed_by[1] != self._lookup_cache_version[1]
        ):
            self._lookup_cache_version = routed_by
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
        if len(self._lookup_cache) >= _MAX_CACHED_LOOKUPS:
            self._lookup_cache.clear()
        self._lookup_cache[name] = found[0]
        return found[0]

    def _is_ambiguous(self, name: str, found: list[str]) -> bool:
        """Whether the config itself names several services for one gRPC service."""
        return len(found) > 1 and found[0] in self._find_configured(name)

    def _has_unqueried_predecessor(self, name: str, service: str) -> bool:
        """Whether a service that takes precedence is ready and has not been asked yet."""
        if service in self._find_configured(name):
            return False
        asked = self._indexed.keys() | self._errors.keys()
        before = itertools.takewhile(lambda each: each != service, self._configured_services())
        return any(each not in asked and self.is_stale(each) for each in before)

    def is_stale(self, service: str) -> bool:
        """Whether there are endpoints that were not there when it was asked."""
        if not self._registry.has_service(service):
            return False
        state, learned = self._registry.resolve(service), self._indexed.get(service)
        failed = self._backoffs.get(service)
        if failed is not None and failed[0] is state and trio.current_time() < failed[1]:
            return False
        if learned is None:
            return bool(state.endpoints)
        if learned.checked_state is not state:
            if any(endpoint.id not in learned.endpoint_ids for endpoint in state.endpoints):
                return True
            learned.checked_state = state
        return False

    def is_refreshing(self, service: str) -> bool:
        return service in self._refresh_locks and self._refresh_locks[service].locked()

    def remove(self, service: str) -> None:
        """Nobody serves it any more."""
        for found in (
            self._indexed,
            self._declaration_counts,
            self._errors,
            self._backoffs,
            self._refresh_locks,
        ):
            found.pop(service, None)
        self._unreachable.discard(service)
        self._conflicts = {
            pair: names for pair, names in self._conflicts.items() if service not in pair
        }
        self._lookup_cache.clear()

    async def lookup_or_refresh(self, name: str) -> str:
        """The one service of the mesh that serves a gRPC service.

        Raises UnimplementedError, UnavailableError where one may that cannot be asked now, and
        FailedPreconditionError where the config names several.
        """
        found = self.find_services(name)
        if not found or self._has_unqueried_predecessor(name, found[0]):
            await self.refresh()
            found = self.find_services(name)
        if found and not self._is_ambiguous(name, found):
            return found[0]
        if found:
            raise purerpc.FailedPreconditionError(
                f"{name} is served by {_format_names(found)}; say which with the metadata key "
                "x-mesh-target, or as :authority"
            )
        raise self._make_lookup_error(name)

    def _make_lookup_error(self, name: str) -> purerpc.RpcFailedError:
        known = {each for learned in self._indexed.values() for each in learned.grpc_services}
        known |= {each for names in self._configured_services().values() for each in names}
        text = (
            f"nobody in this mesh serves {name}; what is served: "
            f"{_format_names(known) or 'nothing'}"
        )
        services = self._registry.services()
        asked = {service: self._errors.get(service) for service in services}
        silent = [f"{service} ({why})" for service, why in asked.items() if why]
        waiting = [s for s in services if s not in self._indexed and s not in self._errors]
        if silent:
            text += f"; not known of {_format_names(silent)}"
        if self._unreachable.intersection(services) - self._indexed.keys():
            return purerpc.UnavailableError(text)
        if waiting:
            return purerpc.UnavailableError(f"{text}; not ready yet: {_format_names(waiting)}")
        return purerpc.UnimplementedError(text)

    async def list_reflection_sources(self) -> list[ReflectionSource]:
        """What each of them serves, and where the types of that are found."""
        await self.refresh()
        return [
            self._indexed[service].reflection
            for service in self._list_by_precedence()
            if self._registry.has_service(service)
        ]

    async def refresh(self) -> None:
        """Ask those that are not known, or are others than before."""
        async with trio.open_nursery() as nursery:
            for service in self._registry.services():
                if self.is_stale(service):
                    # Here and not in the task, as tasks start in any order.
                    self._refresh_locks.setdefault(service, trio.Lock())
                    nursery.start_soon(self.refresh_service, service)

    async def refresh_service(self, service: str) -> None:
        """Ask a service what it serves; what was known stays where that fails."""
        async with self._refresh_locks.setdefault(service, trio.Lock()):
            if not self.is_stale(service):
                return
            state = self._registry.resolve(service)
            ids = frozenset(endpoint.id for endpoint in state.endpoints)
            learned = IndexedService(state, ids, ReflectionSource(service, frozenset()))
            self._unreachable.discard(service)
            try:
                with trio.fail_after(_REFLECTION_TIMEOUT):
                    await self._query_reflection(service, learned)
                self._store(service, learned)
                self._errors.pop(service, None)
            except ReflectionError as exc:
                self._store(service, learned)
                self._set_error(service, f"{exc}; its config can say `services = […]`")
            except purerpc.RpcFailedError as exc:
                if isinstance(exc, purerpc.UnavailableError | purerpc.ResourceExhaustedError):
                    self._unreachable.add(service)
                self._schedule_retry(service, learned, exc.status.status_message)
            except trio.TooSlowError:
                self._unreachable.add(service)
                self._schedule_retry(
                    service, learned, f"it did not say within {_REFLECTION_TIMEOUT:g} s"
                )
            except Exception as exc:
                # Whatever a plugin answers concerns this question alone, not the gateway's tasks.
                self._schedule_retry(
                    service, learned, f"its reflection cannot be used: {exc!r:.200}"
                )

    def _schedule_retry(self, service: str, indexed: IndexedService, reason: str) -> None:
        """Ask again after a while, or when it has other endpoints; who waited does not."""
        self._backoffs[service] = indexed.checked_state, trio.current_time() + _RETRY_INTERVAL
        if indexed.grpc_services:
            self._store(service, indexed)
        self._set_error(service, reason)

    def _set_error(self, service: str, reason: str) -> None:
        if self._errors.get(service) != reason:
            _log.info("what %s serves is not known: %s", service, reason)
        self._errors[service] = reason

    def _store(self, service: str, indexed: IndexedService) -> None:
        self._indexed[service] = indexed
        self._lookup_cache.clear()
        self._log_conflicts(service)

    def _log_conflicts(self, service: str) -> None:
        """Log which gRPC services of a service are claimed by others, too, if that is news."""
        mine = self._indexed[service].grpc_services
        others = {
            s: mine & found.grpc_services for s, found in self._indexed.items() if s != service
        }
        conflicts = {frozenset((service, other)): names for other, names in others.items() if names}
        for pair, names in conflicts.items():
            if self._conflicts.get(pair) != names:
                first, second = (s for s in self._list_by_precedence() if s in pair)
                text = "%s and %s both claim %s: calls without a target go to %s, unless `services`"
                text += " of the config says otherwise"
                _log.warning(
                    text, first, second, _format_names(names), self._get_preferred(first, second)
                )
        self._conflicts = {
            pair: names for pair, names in self._conflicts.items() if service not in pair
        } | conflicts

    def _get_preferred(self, first: str, second: str) -> str:
        """The preferred one of two; registered programs come last whatever their order."""
        return first if self._is_managed(first) or not self._is_managed(second) else second

    async def _query_reflection(self, service: str, indexed: IndexedService) -> None:
        async with self._open_channel(service) as channel:
            listed = await list_services(channel)
            names = [
                n for n in listed if is_full_name(n) and not n.startswith(_COMMON_SERVICE_PREFIXES)
            ]
            indexed.reflection = ReflectionSource(service, frozenset(names))
            found = await _describe_services(service, channel, names)
            if found is not None:
                self._reserve_declarations(service, found)
                indexed.reflection = ReflectionSource(service, frozenset(names), found.pool)

    def _reserve_declarations(self, service: str, types: ReflectedTypes) -> None:
        """Raise NoReflectionError for more types than the mesh keeps of all services."""
        self._declaration_counts.pop(service, None)
        if sum(self._declaration_counts.values()) + types.declaration_count > _MAX_DECLARATIONS:
            raise ReflectionError(
                f"{service} declares {types.declaration_count:,} types and fields, for "
                "which there is "
                f"no room: the mesh keeps {_MAX_DECLARATIONS:,} of all services"
            )
        self._declaration_counts[service] = types.declaration_count


async def _describe_services(
    service: str, channel: Channel, names: list[str]
) -> ReflectedTypes | None:
    """The types of a service of the mesh, without those gRPC services that it does not describe."""
    try:
        return await fetch_types(channel, *names)
    except ReflectionError as exc:
        _log.warning("what %s says of its types cannot be used: %s", service, exc)
    good = []
    for name in names:
        with contextlib.suppress(ReflectionError):
            await fetch_types(channel, name)
            good.append(name)
    with contextlib.suppress(ReflectionError):
        return await fetch_types(channel, *good)
    return None


def _format_names(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - _MAX_LISTED_NAMES} more" if len(found) > _MAX_LISTED_NAMES else ""
    return ", ".join(found[:_MAX_LISTED_NAMES]) + more
