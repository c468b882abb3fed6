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

from meshtrio.client.calls import stub_method
from meshtrio.client.endpoint import Endpoint
from meshtrio.client.raw import raw_method_of
from meshtrio.config.telemetry import THROUGH_THE_MESH
from meshtrio.messages import metrics
from meshtrio.registry import Registry
from meshtrio.services.attending import channel_to_instance, ready
from meshtrio.services.metrics import CollectedMetrics
from meshtrio.supervise.tree import Tree
from meshtrio.telemetry.families import Family, Kind, Point, instance_labels
from meshtrio.telemetry.metrics.admission import WHY, Admission, Reason
from meshtrio.threads import Pace, compute
from meshtrio.wire.protobuf import MalformedError

_log = logging.getLogger("meshtrio.mesh")

_COLLECT = raw_method_of(metrics.DESCRIPTOR.services_by_name["Metrics"].methods_by_name["Collect"])
_PATIENCE = 2.0
"""Seconds that plugins have to answer: a scrape has ten by default."""
_PART_OF_TIMEOUT = 0.5
"""Of what a scrape has, where that is less: one plugin that is stuck must not cost all of it."""
_READING = 10.0
"""Seconds of CPU time for reading the answers after that. Ten thousand metrics take half of one."""
_PART_OF_READING = 0.25
"""Of what a scrape has, if that is known: seconds by the clock."""
_MAX_LOGGED = 1000
"""Different reasons why metrics are left out that are logged, each once."""

_LARGE = 256 * 1024
"""Bytes of an answer that is read after the others."""

_IN_FLIGHT = Family("mesh.instance.in_flight", Kind.GAUGE, "{call}", "Calls under way.", ())
_FAILURES = Family(
    "mesh.collection.failures",
    Kind.COUNTER,
    "{instance}",
    "Instances that did not tell their metrics when they were asked.",
    (),
)
_LEFT_OUT = Family(
    "mesh.collection.points_left_out",
    Kind.COUNTER,
    "{point}",
    "Points of metrics that could not be exposed, by the reason.",
    (),
)

Answers = dict[tuple[str, int], bytes]
"""By plugin and instance."""


@attrs.define
class _Scrape:
    """What became of the answers."""

    families: list[Family] = attrs.field(factory=list)
    in_flight: dict[tuple[str, int], int] = attrs.field(factory=dict)
    failures: dict[tuple[str, int], str] = attrs.field(factory=dict)
    left_out: dict[str, Counter[Reason]] = attrs.field(factory=dict)
    """By plugin, "" for the mesh's own."""
    examples: dict[tuple[str, Reason], str] = attrs.field(factory=dict)
    """Names of metrics that are left out."""


def _put_together(
    own: Sequence[Family],
    answers: Answers,
    seconds: float,
    clock: Callable[[], float],
    pace: Pace,
) -> _Scrape:
    """Parse the answers, for some seconds of a clock; admit what can be exposed with our own."""
    scrape, limit = _Scrape(), math.inf

    def rest() -> None:
        if pace() and clock() > limit:
            raise MalformedError("there was no time left to read them")

    admission = Admission(rest)
    scrape.left_out[""] = admission.take(own, own=True)
    scrape.examples = {("", reason): name for reason, name in admission.examples.items()}
    admission.take((_IN_FLIGHT, _FAILURES, _LEFT_OUT), own=True)
    limit = clock() + seconds
    # One that is large shall not take the time of those that are not.
    for key, data in sorted(answers.items(), key=lambda each: (len(each[1]) > _LARGE, each[0])):
        left_out = scrape.left_out.setdefault(key[0], Counter())
        try:
            collected = CollectedMetrics(data, rest)
            scrape.in_flight[key] = collected.in_flight
            left_out += admission.take(collected.families(), instance_labels(*key))
            for reason, name in admission.examples.items():
                scrape.examples.setdefault((key[0], reason), name)
        except MalformedError as exc:
            scrape.failures[key] = str(exc)
    scrape.families = [family for family in admission.families() if family.points]
    return scrape


class Gatherer:
    """Asks those instances that are ready, at the same time; one that does not answer costs its own
    figures, and is counted."""

    def __init__(
        self,
        tree: Tree,
        registry: Registry,
        own: Sequence[Callable[[], Sequence[Family]]],
        look: Callable[[], Awaitable[None]],
    ) -> None:
        """`own`: what the mesh's process itself has to tell, once `look` has looked at it."""
        self._tree = tree
        self._registry = registry
        self._own = own
        self._look = look
        self._failures: Counter[str] = Counter()
        self._left_out: Counter[tuple[str, Reason]] = Counter()
        self._logged: set[tuple[str, object]] = set()

    async def gather(self, within: float | None = None) -> list[Family]:
        """All there is; `within`: seconds that whoever asks waits for it."""
        patience = _PATIENCE if within is None else min(_PATIENCE, within * _PART_OF_TIMEOUT)
        answers: Answers = {}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look)
            for key, endpoint in self._asked().items():
                nursery.start_soon(self._ask, key, endpoint, patience, answers)
        own = [family for source in self._own for family in source()]
        # By CPU time a busy machine loses nothing; by the clock who waits gets the rest in time.
        seconds, clock = _READING, time.thread_time
        if within is not None:
            seconds, clock = within * _PART_OF_READING, time.monotonic
        scrape = await compute(partial(_put_together, own, answers, seconds, clock))
        self._count(scrape)
        return [*scrape.families, *self._about(scrape)]

    def _count(self, scrape: _Scrape) -> None:
        """Count what is missing, and log what is new of it."""
        for (plugin, _), why in scrape.failures.items():
            self._failed(plugin, why)
        for plugin, reasons in scrape.left_out.items():
            for reason, count in reasons.items():
                self._left_out[plugin, reason] += count
                name = scrape.examples.get((plugin, reason), "")
                text = "some metrics of %s are left out, such as %r: %s"
                self._log_once((plugin, reason), text, plugin or "the mesh", name, WHY[reason])

    def _failed(self, plugin: str, why: str) -> None:
        self._failures[plugin] += 1
        self._log_once((plugin, why), "metrics of %s cannot be used: %s", plugin, why)

    def _log_once(self, key: tuple[str, object], text: str, *arguments: object) -> None:
        if len(self._logged) < _MAX_LOGGED and key not in self._logged:
            self._logged.add(key)
            _log.warning(text, *arguments)

    def _asked(self) -> dict[tuple[str, int], Endpoint]:
        """One process for each instance: of those that change places now, the one that came last,
        since its counters go on from here."""
        exposed = {
            plugin.service: plugin.name
            for plugin in self._tree.config.plugins
            if plugin.metrics == THROUGH_THE_MESH
        }
        there = ready(self._registry, exposed.__contains__)
        return {(exposed[service], number): found for (service, number), found in there.items()}

    async def _ask(
        self,
        key: tuple[str, int],
        endpoint: Endpoint,
        patience: float,
        answers: Answers,
    ) -> None:
        try:
            with trio.fail_after(patience):
                async with channel_to_instance(endpoint) as channel:
                    reply = await stub_method(channel, _COLLECT)(metrics.CollectMetricsRequest())
                    answers[key] = reply.data
        except purerpc.UnimplementedError:
            pass  # It is not made with meshtrio.
        except (purerpc.RpcFailedError, trio.TooSlowError):
            self._failures[key[0]] += 1
        except Exception as exc:
            # Whatever a plugin answers costs its own figures, not the scrape.
            self._failed(key[0], f"{type(exc).__name__}: {exc!s:.200}")

    def _about(self, scrape: _Scrape) -> list[Family]:
        """What the answers tell of the instances themselves."""
        in_flight = [
            Point(instance_labels(*key), count) for key, count in sorted(scrape.in_flight.items())
        ]
        plugins = [plugin.name for plugin in self._tree.config.plugins]
        failures = [Point((("plugin", name),), self._failures[name]) for name in plugins]
        left_out = [
            Point((("plugin", name), ("reason", reason.value)), self._left_out[name, reason])
            for name in plugins
            for reason in Reason
        ]
        return [
            attrs.evolve(_IN_FLIGHT, points=in_flight),
            attrs.evolve(_FAILURES, points=failures),
            attrs.evolve(_LEFT_OUT, points=left_out),
        ]
