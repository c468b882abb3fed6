"""All metrics of a mesh for one scrape: its own, and those that its plugins are asked for."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import attrs
import purerpc
import trio

from meshtrio.client.multicallable import make_multicallable
from meshtrio.client.raw_reply import make_raw_method
from meshtrio.config.telemetry import METRICS_FROM_MESH
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.messages import metrics
from meshtrio.services.instances import get_ready_endpoints, open_instance_channel
from meshtrio.services.metrics import CollectedMetrics
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.telemetry.metric_families import (
    MetricFamily,
    MetricKind,
    MetricPoint,
    instance_labels,
)
from meshtrio.telemetry.metrics.family_merger import (
    DROP_REASON_TEXT,
    DropReason,
    FamilyMerger,
)
from meshtrio.util.protobuf_wire import MalformedProtobufError
from meshtrio.util.worker_threads import GilYielder, run_computation

_log = logging.getLogger("meshtrio.mesh")

_COLLECT = make_raw_method(
    metrics.DESCRIPTOR.services_by_name["Metrics"].methods_by_name["Collect"]
)
_COLLECT_TIMEOUT = 2.0
"""Seconds that plugins have to answer: a scrape has ten by default."""
_COLLECT_TIMEOUT_FRACTION = 0.5
"""Of what a scrape has, where that is less: one plugin that is stuck must not cost all of it."""
_PARSE_CPU_LIMIT = 10.0
"""Seconds of CPU time for reading the answers after that. Ten thousand metrics take half of one."""
_PARSE_TIMEOUT_FRACTION = 0.25
"""Of what a scrape has, if that is known: seconds by the clock."""
_MAX_LOGGED_REASONS = 1000
"""Different reasons why metrics are left out that are logged, each once."""

_LARGE_RESPONSE_SIZE = 256 * 1024
"""Bytes of an answer that is read after the others."""

_IN_FLIGHT = MetricFamily(
    "mesh.instance.in_flight", MetricKind.GAUGE, "{call}", "Calls under way.", ()
)
_FAILURES = MetricFamily(
    "mesh.collection.failures",
    MetricKind.COUNTER,
    "{instance}",
    "Instances that did not tell their metrics when they were asked.",
    (),
)
_DROPPED_POINTS = MetricFamily(
    "mesh.collection.points_left_out",
    MetricKind.COUNTER,
    "{point}",
    "Points of metrics that could not be exposed, by the reason.",
    (),
)

Responses = dict[tuple[str, int], bytes]
"""By plugin and instance."""


@attrs.define
class _Scrape:
    """What became of the answers."""

    families: list[MetricFamily] = attrs.field(factory=list)
    in_flight: dict[tuple[str, int], int] = attrs.field(factory=dict)
    failures: dict[tuple[str, int], str] = attrs.field(factory=dict)
    dropped: dict[str, Counter[DropReason]] = attrs.field(factory=dict)
    """By plugin, "" for the mesh's own."""
    dropped_examples: dict[tuple[str, DropReason], str] = attrs.field(factory=dict)
    """Names of metrics that are left out."""


def _parse_responses(
    own_families: Sequence[MetricFamily],
    responses: Responses,
    time_limit: float,
    clock: Callable[[], float],
    pace: GilYielder,
) -> _Scrape:
    """Parse the answers, for some seconds of a clock; admit what can be exposed with our own."""
    scrape, limit = _Scrape(), math.inf

    def rest() -> None:
        if pace() and clock() > limit:
            raise MalformedProtobufError("there was no time left to read them")

    admission = FamilyMerger(rest)
    scrape.dropped[""] = admission.merge(own_families, is_mesh=True)
    scrape.dropped_examples = {
        ("", reason): name for reason, name in admission.dropped_examples.items()
    }
    admission.merge((_IN_FLIGHT, _FAILURES, _DROPPED_POINTS), is_mesh=True)
    limit = clock() + time_limit
    # One that is large shall not take the time of those that are not.
    for key, data in sorted(
        responses.items(), key=lambda each: (len(each[1]) > _LARGE_RESPONSE_SIZE, each[0])
    ):
        left_out = scrape.dropped.setdefault(key[0], Counter())
        try:
            collected = CollectedMetrics(data, rest)
            scrape.in_flight[key] = collected.in_flight
            left_out += admission.merge(collected.decode_families(), instance_labels(*key))
            for reason, name in admission.dropped_examples.items():
                scrape.dropped_examples.setdefault((key[0], reason), name)
        except MalformedProtobufError as exc:
            scrape.failures[key] = str(exc)
    scrape.families = [family for family in admission.families() if family.points]
    return scrape


class MetricsCollector:
    """Asks those instances that are ready, at the same time; one that does not answer costs its own
    figures, and is counted."""

    def __init__(
        self,
        supervisor: Supervisor,
        registry: Registry,
        own_sources: Sequence[Callable[[], Sequence[MetricFamily]]],
        sample: Callable[[], Awaitable[None]],
    ) -> None:
        """`own`: what the mesh's process itself has to tell, once `look` has looked at it."""
        self._supervisor = supervisor
        self._registry = registry
        self._own_sources = own_sources
        self._sample = sample
        self._failures: Counter[str] = Counter()
        self._dropped: Counter[tuple[str, DropReason]] = Counter()
        self._logged: set[tuple[str, object]] = set()

    async def collect(self, timeout_seconds: float | None = None) -> list[MetricFamily]:
        """All there is; `within`: seconds that whoever asks waits for it."""
        patience = (
            _COLLECT_TIMEOUT
            if timeout_seconds is None
            else min(_COLLECT_TIMEOUT, timeout_seconds * _COLLECT_TIMEOUT_FRACTION)
        )
        answers: Responses = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sample)
            for key, endpoint in self._list_instances().items():
                nursery.start_soon(self._query_instance, key, endpoint, patience, answers)
        own = [family for source in self._own_sources for family in source()]
        # By CPU time a busy machine loses nothing; by the clock who waits gets the rest in time.
        seconds, clock = _PARSE_CPU_LIMIT, time.thread_time
        if timeout_seconds is not None:
            seconds, clock = timeout_seconds * _PARSE_TIMEOUT_FRACTION, time.monotonic
        scrape = await run_computation(partial(_parse_responses, own, answers, seconds, clock))
        self._record_losses(scrape)
        return [*scrape.families, *self._make_collection_families(scrape)]

    def _record_losses(self, scrape: _Scrape) -> None:
        """Count what is missing, and log what is new of it."""
        for (plugin, _), why in scrape.failures.items():
            self._record_failure(plugin, why)
        for plugin, reasons in scrape.dropped.items():
            for reason, count in reasons.items():
                self._dropped[plugin, reason] += count
                name = scrape.dropped_examples.get((plugin, reason), "")
                text = "some metrics of %s are left out, such as %r: %s"
                self._log_once(
                    (plugin, reason), text, plugin or "the mesh", name, DROP_REASON_TEXT[reason]
                )

    def _record_failure(self, plugin: str, reason: str) -> None:
        self._failures[plugin] += 1
        self._log_once((plugin, reason), "metrics of %s cannot be used: %s", plugin, reason)

    def _log_once(self, key: tuple[str, object], text: str, *arguments: object) -> None:
        if len(self._logged) < _MAX_LOGGED_REASONS and key not in self._logged:
            self._logged.add(key)
            _log.warning(text, *arguments)

    def _list_instances(self) -> dict[tuple[str, int], Endpoint]:
        """One process for each instance: of those that change places now, the one that came last,
        since its counters go on from here."""
        exposed = {
            plugin.service: plugin.name
            for plugin in self._supervisor.config.plugins
            if plugin.metrics == METRICS_FROM_MESH
        }
        there = get_ready_endpoints(self._registry, exposed.__contains__)
        return {(exposed[service], number): found for (service, number), found in there.items()}

    async def _query_instance(
        self,
        key: tuple[str, int],
        endpoint: Endpoint,
        timeout_seconds: float,
        responses: Responses,
    ) -> None:
        try:
            with trio.fail_after(timeout_seconds):
                async with open_instance_channel(endpoint) as channel:
                    reply = await make_multicallable(channel, _COLLECT)(
                        metrics.CollectMetricsRequest()
                    )
                    responses[key] = reply.data
        except purerpc.UnimplementedError:
            pass  # It is not made with meshtrio.
        except (purerpc.RpcFailedError, trio.TooSlowError):
            self._failures[key[0]] += 1
        except Exception as exc:
            # Whatever a plugin answers costs its own figures, not the scrape.
            self._record_failure(key[0], f"{type(exc).__name__}: {exc!s:.200}")

    def _make_collection_families(self, scrape: _Scrape) -> list[MetricFamily]:
        """What the answers tell of the instances themselves."""
        in_flight = [
            MetricPoint(instance_labels(*key), count)
            for key, count in sorted(scrape.in_flight.items())
        ]
        plugins = [plugin.name for plugin in self._supervisor.config.plugins]
        failures = [MetricPoint((("plugin", name),), self._failures[name]) for name in plugins]
        left_out = [
            MetricPoint((("plugin", name), ("reason", reason.value)), self._dropped[name, reason])
            for name in plugins
            for reason in DropReason
        ]
        return [
            attrs.evolve(_IN_FLIGHT, points=in_flight),
            attrs.evolve(_FAILURES, points=failures),
            attrs.evolve(_DROPPED_POINTS, points=left_out),
        ]
