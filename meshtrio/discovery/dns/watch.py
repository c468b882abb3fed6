"""One name of one table: looks it up when it is due, and writes what has changed to a registry."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable

import trio

from meshtrio.discovery.dns.answers import (
    MAX_ENDPOINTS_PER_NAME,
    DnsAnswer,
    EndpointChanges,
    EndpointSet,
    FailureKind,
    LookupFailedError,
)
from meshtrio.discovery.dns.schedule import LookupSchedule
from meshtrio.discovery.endpoint import ExitInfo
from meshtrio.discovery.registry import Registry
from meshtrio.util.dns_target import DnsTarget
from meshtrio.util.log_once import ReasonChangeLogger
from meshtrio.util.record import FrozenRecord
from meshtrio.util.shared_rng import RNG
from meshtrio.util.tls_config import ClientTlsConfig

_log = logging.getLogger("meshtrio.mesh")


class WatchKey(FrozenRecord):
    """What a watch depends on; a change of the config that changes it makes it another watch."""

    service: str
    target: DnsTarget
    weight: int = 1
    local: bool = False
    tls: ClientTlsConfig | None = None


class DnsWatch:
    """One name of one table."""

    def __init__(self, key: WatchKey, registry: Registry) -> None:
        self.key = key
        self._registry = registry
        self.endpoints = EndpointSet(key.target, key.weight, key.tls, local=key.local)
        self._schedule = LookupSchedule(trio.current_time(), RNG)
        self._is_rescheduled = trio.Event()
        self._log = ReasonChangeLogger(_log, level=logging.WARNING)
        self._has_failed = False
        self._reported_reason = ""
        """Why there are no endpoints, as the registry has it."""
        self.cancel_scope = trio.CancelScope()
        self.lookups = 0
        """Number of lookups that have ended."""
        self.failures = Counter[FailureKind]()
        """Number of lookups that have ended without addresses."""
        self.answered_at: float | None = None
        """Time of the last answer with addresses, None before the first."""

    async def wait_until_due(self) -> None:
        """Wait until the next lookup."""
        while trio.current_time() < self._schedule.next_at:
            self._is_rescheduled = trio.Event()
            with trio.move_on_at(self._schedule.next_at):
                await self._is_rescheduled.wait()

    async def look_up(self, lookup: Callable[[DnsTarget], Awaitable[DnsAnswer]]) -> None:
        """Look the name up, and follow the answer."""
        self._schedule.on_start(trio.current_time())
        result: DnsAnswer | LookupFailedError
        try:
            result = await lookup(self.key.target)
        except LookupFailedError as exc:
            result = exc
        except Exception as exc:
            # A bug, here or in dnspython, perhaps of one odd answer. The next lookup may do better.
            _log.debug("%s: looking up %s", self.key.service, self.key.target, exc_info=True)
            result = LookupFailedError(FailureKind.ERROR, f"internal error: {exc!r}")
        if self.cancel_scope.cancel_called:
            return  # The result had arrived when the watch was stopped.
        if isinstance(result, LookupFailedError):
            self._on_failure(result)
        else:
            self._on_answer(result)

    def look_up_soon(self) -> None:
        """Look up without waiting for the TTL."""
        self._schedule.expire(trio.current_time())
        self._is_rescheduled.set()

    def on_connect_failure(self, endpoint_id: str) -> None:
        """Look up earlier if the endpoint is one of this name."""
        if self.endpoints.has_endpoint(endpoint_id):
            self._schedule.on_connect_failure(trio.current_time())
            self._is_rescheduled.set()

    def stop(self) -> None:
        """End the watch, and remove its endpoints."""
        self.cancel_scope.cancel()
        self._apply(self.endpoints.clear(f"of {self.key.target} was removed from the config"))

    def _on_answer(self, answer: DnsAnswer) -> None:
        now, changes = trio.current_time(), self.endpoints.update(answer)
        self.lookups += 1
        self.answered_at, self._reported_reason = now, ""
        has_changed = bool(changes.added or changes.removed)
        self._schedule.on_answer(now, answer.ttl, has_changed=has_changed)
        self._apply(changes)
        self._log_answer(answer)

    def _apply(self, changes: EndpointChanges) -> None:
        service = self.key.service
        # Callers should always find an endpoint, if there is one.
        for endpoint in changes.added:
            self._registry.register(service, endpoint)
        for endpoint in changes.changed:
            self._registry.update_endpoint(service, endpoint)
        for exit_info in changes.removed:
            self._registry.deregister(service, exit_info)

    def _on_failure(self, exc: LookupFailedError) -> None:
        self.lookups += 1
        self.failures[exc.kind] += 1
        self._schedule.on_failure(trio.current_time())
        service, target, known = self.key.service, self.key.target, len(self.endpoints)
        if not known and exc.reason != self._reported_reason:
            # What callers and `meshtrio services` see as the reason why there is no endpoint.
            self._reported_reason = exc.reason
            self._registry.deregister(service, ExitInfo(str(target), f"{target}: {exc.reason}"))
        kept = f"; keeping the {known} known endpoints" if known else ""
        self._log.log(exc.reason, "%s: looking up %s failed: %s%s", service, target, exc, kept)
        self._has_failed = True

    def _log_answer(self, answer: DnsAnswer) -> None:
        """Log that an answer is incomplete, or that lookups succeed again."""
        service, target, count = self.key.service, self.key.target, len(self.endpoints)
        if answer.problem:
            text = "%s: a part of %s cannot be looked up: %s; known endpoints are kept"
            self._log.log(answer.problem, text, service, target, answer.problem)
            self._has_failed = True
        elif left_out := self.endpoints.left_out:
            text = "%s: %s has %d addresses more than the %d that are used"
            self._log.log(left_out, text, service, target, left_out, MAX_ENDPOINTS_PER_NAME)
        else:
            self._log.reset()
            if self._has_failed:
                _log.info("%s: %s is looked up again: %d endpoints", service, target, count)
            self._has_failed = False
