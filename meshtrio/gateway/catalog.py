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
from meshtrio.client.described_files import Description
from meshtrio.client.endpoint import ServiceState
from meshtrio.client.reflection import (
    NoReflectionError,
    describe_all,
    is_full_name,
    list_services,
)
from meshtrio.registry import Registry
from meshtrio.services.reflected_files import Described

_log = logging.getLogger("meshtrio.gateway")

_EVERYBODYS = ("grpc.health.", "grpc.reflection.", "grpc.channelz.", "meshtrio.v1.")
"""What every server may have: no reason to pass a call on to it."""
_LEARN_WITHIN = 2.0
"""Seconds that a plugin has to describe itself."""
_ASK_AGAIN_AFTER = 5.0
_MOST_NAMED = 20
_MOST_ROUTES = 10_000
_MAX_DECLARATIONS = 200_000
"""Of all services together, for which protobuf takes up to 160 MB."""


@attrs.define
class Learned:
    """What the endpoints of a service have said."""

    state: ServiceState
    """The last that is known to bring nothing new."""
    ids: frozenset[str]
    described: Described
    """Its gRPC services and their types."""

    @property
    def names(self) -> frozenset[str]:
        """Of its gRPC services."""
        return self.described.services


class Catalog:
    """Asks when it has to: a plugin that nobody calls through the gateway is asked nothing."""

    def __init__(
        self,
        registry: Registry,
        configured: Callable[[], Mapping[str, Iterable[str]]],
        open_channel: Callable[[str], AbstractAsyncContextManager[Channel]],
    ) -> None:
        """`configured`: by service of the mesh, what the config says it serves.

        `open_channel` is for questions: they are no calls of the service's users.
        """
        self._registry = registry
        self._configured = configured
        self._open_channel = open_channel
        self._learned: dict[str, Learned] = {}
        self._declarations: dict[str, int] = {}
        """How much there is in the types of a service, see `client.described_files`."""
        self._troubles: dict[str, str] = {}
        """Why nothing is known of a service."""
        self._failed: dict[str, tuple[ServiceState, float]] = {}
        """The state that was asked of in vain, and until when that is not done again."""
        self._unanswered: set[str] = set()
        """Services that gave no answer when they were asked: nothing is known of them yet."""
        self._learning: dict[str, trio.Lock] = {}
        """In the order in which services were first asked."""
        self._routes: dict[str, str] = {}
        """Where calls to a gRPC service go; made anew when anything changes."""
        self._conflicts: dict[frozenset[str], frozenset[str]] = {}
        """By pair of services: the gRPC services that both claim."""
        self._routed_by = configured(), registry.changes

    def serving(self, name: str) -> list[str]:
        """The services of the mesh that serve a gRPC service, the preferred one first.

        What the config says overrides what plugins say, and these override registered programs.
        """
        configured = self._configured_for(name)
        learned = [s for s in self._by_precedence() if name in self._learned[s].names]
        attended = [service for service in learned if self._is_attended(service)]
        for found in (configured, attended, learned if self._all_are_known else []):
            here = [service for service in found if self._registry.knows(service)]
            if here:
                return here
        return []

    def _configured_for(self, name: str) -> list[str]:
        return [service for service, names in self._configured().items() if name in names]

    def _by_precedence(self) -> list[str]:
        """The services that have been asked, in the order of the config.

        A service's reflection is its own claim: that another claims the same must not break or
        divert its calls. Services that are not in the config follow in the order in which they
        were first asked, so that no name overtakes another.
        """
        known = dict.fromkeys((*self._configured(), *self._learning))
        return [service for service in known if service in self._learned]

    def _is_attended(self, service: str) -> bool:
        knows = self._registry.knows(service)
        return knows and not self._registry.resolve(service).unattended

    @property
    def _all_are_known(self) -> bool:
        """Whether everyone who is attended to has been asked, at some time."""
        asked = self._learned.keys() | self._troubles.keys() | self._configured().keys()
        return all(s in asked for s in self._registry.services() if self._is_attended(s))

    def route(self, name: str) -> str | None:
        """The one service of the mesh that is known to serve a gRPC service; see `find`."""
        routed_by = (self._configured(), self._registry.changes)
        if routed_by[0] is not self._routed_by[0] or routed_by[1] != self._routed_by[1]:
            self._routed_by = routed_by
            self._routes.clear()
        service = self._routes.get(name)
        if service is not None and self._registry.knows(service):
            return service
        found = self.serving(name)
        if not found or self._is_undecided(name, found) or self._is_early(name, found[0]):
            return None
        if len(self._routes) >= _MOST_ROUTES:
            self._routes.clear()
        self._routes[name] = found[0]
        return found[0]

    def _is_undecided(self, name: str, found: list[str]) -> bool:
        """Whether the config itself names several services for one gRPC service."""
        return len(found) > 1 and found[0] in self._configured_for(name)

    def _is_early(self, name: str, service: str) -> bool:
        """Whether a service that takes precedence is ready and has not been asked yet."""
        if service in self._configured_for(name):
            return False
        asked = self._learned.keys() | self._troubles.keys()
        before = itertools.takewhile(lambda each: each != service, self._configured())
        return any(each not in asked and self.is_stale(each) for each in before)

    def is_stale(self, service: str) -> bool:
        """Whether there are endpoints that were not there when it was asked."""
        if not self._registry.knows(service):
            return False
        state, learned = self._registry.resolve(service), self._learned.get(service)
        failed = self._failed.get(service)
        if failed is not None and failed[0] is state and trio.current_time() < failed[1]:
            return False
        if learned is None:
            return bool(state.endpoints)
        if learned.state is not state:
            if any(endpoint.id not in learned.ids for endpoint in state.endpoints):
                return True
            learned.state = state
        return False

    def is_learning(self, service: str) -> bool:
        return service in self._learning and self._learning[service].locked()

    def forget(self, service: str) -> None:
        """Nobody serves it any more."""
        for found in (
            self._learned,
            self._declarations,
            self._troubles,
            self._failed,
            self._learning,
        ):
            found.pop(service, None)
        self._unanswered.discard(service)
        self._conflicts = {
            pair: names for pair, names in self._conflicts.items() if service not in pair
        }
        self._routes.clear()

    async def find(self, name: str) -> str:
        """The one service of the mesh that serves a gRPC service.

        Raises UnimplementedError, UnavailableError where one may that cannot be asked now, and
        FailedPreconditionError where the config names several.
        """
        found = self.serving(name)
        if not found or self._is_early(name, found[0]):
            await self.refresh()
            found = self.serving(name)
        if found and not self._is_undecided(name, found):
            return found[0]
        if found:
            raise purerpc.FailedPreconditionError(
                f"{name} is served by {_listed(found)}; say which with the metadata key "
                "x-mesh-target, or as :authority"
            )
        raise self._unknown(name)

    def _unknown(self, name: str) -> purerpc.RpcFailedError:
        known = {each for learned in self._learned.values() for each in learned.names}
        known |= {each for names in self._configured().values() for each in names}
        text = f"nobody in this mesh serves {name}; what is served: {_listed(known) or 'nothing'}"
        services = self._registry.services()
        asked = {service: self._troubles.get(service) for service in services}
        silent = [f"{service} ({why})" for service, why in asked.items() if why]
        waiting = [s for s in services if s not in self._learned and s not in self._troubles]
        if silent:
            text += f"; not known of {_listed(silent)}"
        if self._unanswered.intersection(services) - self._learned.keys():
            return purerpc.UnavailableError(text)
        if waiting:
            return purerpc.UnavailableError(f"{text}; not ready yet: {_listed(waiting)}")
        return purerpc.UnimplementedError(text)

    async def described(self) -> list[Described]:
        """What each of them serves, and where the types of that are found."""
        await self.refresh()
        return [
            self._learned[service].described
            for service in self._by_precedence()
            if self._registry.knows(service)
        ]

    async def refresh(self) -> None:
        """Ask those that are not known, or are others than before."""
        async with trio.open_nursery() as nursery:
            for service in self._registry.services():
                if self.is_stale(service):
                    # Here and not in the task, as tasks start in any order.
                    self._learning.setdefault(service, trio.Lock())
                    nursery.start_soon(self.learn, service)

    async def learn(self, service: str) -> None:
        """Ask a service what it serves; what was known stays where that fails."""
        async with self._learning.setdefault(service, trio.Lock()):
            if not self.is_stale(service):
                return
            state = self._registry.resolve(service)
            ids = frozenset(endpoint.id for endpoint in state.endpoints)
            learned = Learned(state, ids, Described(service, frozenset()))
            self._unanswered.discard(service)
            try:
                with trio.fail_after(_LEARN_WITHIN):
                    await self._ask(service, learned)
                self._take(service, learned)
                self._troubles.pop(service, None)
            except NoReflectionError as exc:
                self._take(service, learned)
                self._trouble(service, f"{exc}; its config can say `services = […]`")
            except purerpc.RpcFailedError as exc:
                if isinstance(exc, purerpc.UnavailableError | purerpc.ResourceExhaustedError):
                    self._unanswered.add(service)
                self._put_off(service, learned, exc.status.status_message)
            except trio.TooSlowError:
                self._unanswered.add(service)
                self._put_off(service, learned, f"it did not say within {_LEARN_WITHIN:g} s")
            except Exception as exc:
                # Whatever a plugin answers concerns this question alone, not the gateway's tasks.
                self._put_off(service, learned, f"its reflection cannot be used: {exc!r:.200}")

    def _put_off(self, service: str, learned: Learned, why: str) -> None:
        """Ask again after a while, or when it has other endpoints; who waited does not."""
        self._failed[service] = learned.state, trio.current_time() + _ASK_AGAIN_AFTER
        if learned.names:
            self._take(service, learned)
        self._trouble(service, why)

    def _trouble(self, service: str, why: str) -> None:
        if self._troubles.get(service) != why:
            _log.info("what %s serves is not known: %s", service, why)
        self._troubles[service] = why

    def _take(self, service: str, learned: Learned) -> None:
        self._learned[service] = learned
        self._routes.clear()
        self._log_conflicts(service)

    def _log_conflicts(self, service: str) -> None:
        """Log which gRPC services of a service are claimed by others, too, if that is news."""
        mine = self._learned[service].names
        others = {s: mine & found.names for s, found in self._learned.items() if s != service}
        conflicts = {frozenset((service, other)): names for other, names in others.items() if names}
        for pair, names in conflicts.items():
            if self._conflicts.get(pair) != names:
                first, second = (s for s in self._by_precedence() if s in pair)
                text = "%s and %s both claim %s: calls without a target go to %s, unless `services`"
                text += " of the config says otherwise"
                _log.warning(text, first, second, _listed(names), self._winner(first, second))
        self._conflicts = {
            pair: names for pair, names in self._conflicts.items() if service not in pair
        } | conflicts

    def _winner(self, first: str, second: str) -> str:
        """The preferred one of two; registered programs come last whatever their order."""
        return first if self._is_attended(first) or not self._is_attended(second) else second

    async def _ask(self, service: str, learned: Learned) -> None:
        async with self._open_channel(service) as channel:
            listed = await list_services(channel)
            names = [n for n in listed if is_full_name(n) and not n.startswith(_EVERYBODYS)]
            learned.described = Described(service, frozenset(names))
            found = await _described(service, channel, names)
            if found is not None:
                self._take_room(service, found)
                learned.described = Described(service, frozenset(names), found.pool)

    def _take_room(self, service: str, found: Description) -> None:
        """Raise NoReflectionError for more types than the mesh keeps of all services."""
        self._declarations.pop(service, None)
        if sum(self._declarations.values()) + found.declarations > _MAX_DECLARATIONS:
            raise NoReflectionError(
                f"{service} declares {found.declarations:,} types and fields, for which there is "
                f"no room: the mesh keeps {_MAX_DECLARATIONS:,} of all services"
            )
        self._declarations[service] = found.declarations


async def _described(service: str, channel: Channel, names: list[str]) -> Description | None:
    """The types of a service of the mesh, without those gRPC services that it does not describe."""
    try:
        return await describe_all(channel, *names)
    except NoReflectionError as exc:
        _log.warning("what %s says of its types cannot be used: %s", service, exc)
    good = []
    for name in names:
        with contextlib.suppress(NoReflectionError):
            await describe_all(channel, name)
            good.append(name)
    with contextlib.suppress(NoReflectionError):
        return await describe_all(channel, *good)
    return None


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return ", ".join(found[:_MOST_NAMED]) + more
