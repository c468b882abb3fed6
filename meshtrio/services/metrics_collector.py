"""Collects the metrics of a mesh for one scrape: its own, and those of its instances."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import attrs
import trio

from meshtrio.client.multicallable import RawReply, make_raw_method
from meshtrio.config.telemetry import METRICS_FROM_MESH
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.registry import Registry
from meshtrio.messages import metrics
from meshtrio.services import instances
from meshtrio.services.instances import CallFailure, FailureKind
from meshtrio.services.metrics import decode_response
from meshtrio.supervisor.supervisor import Supervisor
from meshtrio.telemetry.metric_families import MetricFamily, instance_labels
from meshtrio.telemetry.metrics import MetricSource
from meshtrio.telemetry.metrics.family_merger import DropReason, FamilyMerger
from meshtrio.util.log_once import OncePerReasonLogger
from meshtrio.util.protobuf_wire import MalformedProtobufError
from meshtrio.util.worker_threads import GilYielder, run_computation

_log = logging.getLogger("meshtrio.mesh")

_COLLECT = make_raw_method(metrics.DESCRIPTOR.services_by_name["Metrics"].methods[0])
_COLLECT_TIMEOUT = 2.0
"""Maximum seconds for the responses of instances: a scrape times out after ten by default."""
_COLLECT_TIMEOUT_FRACTION = 0.5
"""Share of a scrape's timeout for the responses, if that is less: a stuck plugin must not use up
all of it."""
_PARSE_CPU_LIMIT = 10.0
"""Maximum seconds of CPU time for parsing the responses. Ten thousand metrics take half of one."""
_PARSE_TIMEOUT_FRACTION = 0.25
"""Share of a scrape's timeout for parsing, by the clock, if the timeout is known."""
_LARGE_RESPONSE_SIZE = 256 * 1024
"""Bytes from which a response is parsed after the others."""


@attrs.define
class _Scrape:
    """The parsed responses of one scrape."""

    families: list[MetricFamily] = attrs.field(factory=list)
    in_flight: dict[tuple[str, int], int] = attrs.field(factory=dict)
    failures: dict[tuple[str, int], str] = attrs.field(factory=dict)
    dropped: Counter[tuple[str, DropReason]] = attrs.field(factory=Counter)
    """Number of dropped points by plugin and reason; the plugin of the mesh's own is ""."""
    dropped_examples: dict[tuple[str, DropReason], str] = attrs.field(factory=dict)
    """Names of dropped metrics: one for each plugin and reason."""


def _parse_responses(
    own_families: Sequence[MetricFamily],
    reserved: Sequence[MetricFamily],
    responses: Mapping[tuple[str, int], bytes],
    time_limit: float,
    clock: Callable[[], float],
    pace: GilYielder,
) -> _Scrape:
    """Parse the responses within `time_limit` seconds of `clock`, and merge them with our own.

    `responses`: serialized CollectMetricsResponse by plugin and instance. `reserved`: families
    whose names the responses may not have.
    """
    scrape, limit = _Scrape(), math.inf

    def check_time() -> None:
        if pace() and clock() > limit:
            raise MalformedProtobufError("there was no time left to parse them")

    merger = FamilyMerger(check_time)

    def count_dropped(plugin: str, dropped: Counter[DropReason]) -> None:
        for reason, count in dropped.items():
            scrape.dropped[plugin, reason] += count
            example = merger.dropped_examples[reason]
            scrape.dropped_examples.setdefault((plugin, reason), example)

    count_dropped("", merger.merge(own_families, is_mesh=True))
    merger.merge(reserved, is_mesh=True)
    limit = clock() + time_limit
    # Large responses come last, so that they do not use up the time for the others.
    for key in sorted(responses, key=lambda k: (len(responses[k]) > _LARGE_RESPONSE_SIZE, k)):
        try:
            scrape.in_flight[key], families = decode_response(responses[key], check_time)
            count_dropped(key[0], merger.merge(families, instance_labels(*key)))
        except MalformedProtobufError as exc:
            scrape.failures[key] = str(exc)
    scrape.families = [family for family in merger.families() if family.points]
    return scrape


@attrs.define(eq=False)
class MetricsCollector:
    """Collects the metrics of all ready instances concurrently. An instance that does not respond
    is counted, and lacks its own metrics only."""

    _supervisor: Supervisor
    _registry: Registry
    _own_sources: Sequence[MetricSource]
    """Return the metrics of the mesh's own process, after `sample`."""
    _sample: Callable[[], Awaitable[None]]
    """Updates what the own sources return, during each scrape."""
    _failures: Counter[str] = attrs.field(factory=Counter)
    _dropped: Counter[tuple[str, DropReason]] = attrs.field(factory=Counter)
    _warnings: OncePerReasonLogger = attrs.field(factory=lambda: OncePerReasonLogger(_log))

    async def collect(self, timeout_seconds: float | None = None) -> list[MetricFamily]:
        """Return all metrics, within the timeout of the scrape, if that is known."""
        given = math.inf if timeout_seconds is None else timeout_seconds
        response_timeout = min(_COLLECT_TIMEOUT, given * _COLLECT_TIMEOUT_FRACTION)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sample)
            results = await instances.call_each_instance(
                self._list_instances(),
                _COLLECT,
                metrics.CollectMetricsRequest(),
                timeout_seconds=response_timeout,
            )
        for (plugin, _), each in results.items():
            if isinstance(each, CallFailure) and each.kind is not FailureKind.UNSUPPORTED:
                is_invalid = each.kind is FailureKind.INVALID
                self._record_failure(plugin, each.message if is_invalid else None)
        # Not trusted, and parsed in a thread.
        responses = {key: each.data for key, each in results.items() if isinstance(each, RawReply)}
        own = [family for source in self._own_sources for family in source()]
        # CPU time is fair on a busy machine, but a scrape with a timeout has to end by the clock.
        seconds, clock = _PARSE_CPU_LIMIT, time.thread_time
        if timeout_seconds is not None:
            seconds, clock = timeout_seconds * _PARSE_TIMEOUT_FRACTION, time.monotonic
        reserved = [attrs.evolve(each, points=[]) for each in self._collection_families({})]
        parse = partial(_parse_responses, own, reserved, responses, seconds, clock)
        scrape = await run_computation(parse)
        self._record_losses(scrape)
        return [*scrape.families, *self._collection_families(scrape.in_flight)]

    def _record_losses(self, scrape: _Scrape) -> None:
        """Count what is missing in responses, and log each new reason."""
        for (plugin, _), reason in scrape.failures.items():
            self._record_failure(plugin, reason)
        self._dropped += scrape.dropped
        for (plugin, why), example in scrape.dropped_examples.items():
            text = "dropping metrics of %s, such as %r: %s"
            self._warnings.log((plugin, why), text, plugin or "the mesh", example, why.text)

    def _record_failure(self, plugin: str, reason: str | None) -> None:
        """Count a failure, and log its reason if that is new; None is not logged."""
        self._failures[plugin] += 1
        if reason is not None:
            self._warnings.log((plugin, reason), "cannot use metrics of %s: %s", plugin, reason)

    def _list_instances(self) -> dict[tuple[str, int], Endpoint]:
        """Return one endpoint for each instance: of two during a replacement, the newer one, whose
        counters go on from here."""
        exposed = {
            plugin.service_name: plugin.name
            for plugin in self._supervisor.config.plugins
            if plugin.has_service and plugin.metrics == METRICS_FROM_MESH
        }
        ready = instances.get_ready_endpoints(self._registry, exposed.__contains__)
        return {(exposed[service], number): ready[service, number] for service, number in ready}

    def _collection_families(self, in_flight: Mapping[tuple[str, int], int]) -> list[MetricFamily]:
        """Return the metrics about the collection itself."""
        plugins = [each.name for each in self._supervisor.config.plugins if each.has_service]
        calls = {instance_labels(*key): count for key, count in sorted(in_flight.items())}
        return [
            MetricFamily.gauge("mesh.instance.in_flight", "{call}", "Calls under way.", calls),
            MetricFamily.counter(
                "mesh.collection.failures",
                "{instance}",
                "Instances that did not respond with their metrics.",
                {(("plugin", name),): self._failures[name] for name in plugins},
            ),
            MetricFamily.counter(
                "mesh.collection.points_left_out",
                "{point}",
                "Points of metrics that could not be exposed, by reason.",
                {
                    (("plugin", name), ("reason", reason.label)): self._dropped[name, reason]
                    for name in plugins
                    for reason in DropReason
                },
            ),
        ]
