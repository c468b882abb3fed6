"""Resource usage of the mesh and of its instances' processes, and the limits on it."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

import attrs
import trio

from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.process.proc.resource_usage import (
    ResourceUsage,
    read_own_rss,
    read_usage_by_group,
)
from meshtrio.telemetry.metric_families import (
    Labels,
    MetricFamily,
    counter_family,
    gauge_family,
    instance_labels,
)

_NO_LABELS: Labels = ()

ReadUsage = Callable[[], Awaitable[Mapping[int, ResourceUsage]]]


@attrs.frozen
class _DescriptorUsage:
    """Open file descriptors of one process, and its limit."""

    open: int
    limit: int


class ResourceMetrics:
    """Samples usage on request, as far as the kernel permits."""

    def __init__(self, read_usage: ReadUsage = read_usage_by_group) -> None:
        """`read_usage` returns the resource usage of all process groups."""
        self._read_usage = read_usage
        self._cpu_seconds: dict[Labels, tuple[int, float]] = {}
        """Process id and CPU seconds of each instance, as of the last collection."""
        self._usage: Mapping[int, ResourceUsage] = {}
        self._descriptors: Mapping[int, _DescriptorUsage] = {}

    async def sample(self, instances: Sequence[Instance]) -> None:
        """Sample current usage, in threads, since /proc may be large."""
        pids = {child.process.pid for child in instances if child.process is not None}
        self._usage = {}
        with contextlib.suppress(OSError, RuntimeError):
            self._usage = await self._read_usage()
            self._descriptors = await trio.to_thread.run_sync(
                _read_descriptor_usage, {*pids, os.getpid()}, abandon_on_cancel=True
            )

    def collect(self, instances: Sequence[Instance]) -> list[MetricFamily]:
        """Return the families of the last sample."""
        return [*self._mesh_families(), *self._instance_families(instances)]

    def _instance_families(self, instances: Iterable[Instance]) -> list[MetricFamily]:
        running = {
            instance_labels(child.plugin, child.number): (child, child.process.pid)
            for child in instances
            if child.process is not None
        }
        used = self._usage
        measured = {labels: (pid, used[pid]) for labels, (_, pid) in running.items() if pid in used}
        self._update_cpu_seconds(
            {labels: (pid, usage.cpu_time) for labels, (pid, usage) in measured.items()}
        )
        pids = {labels: pid for labels, (_, pid) in running.items()}
        return [
            counter_family(
                "mesh.instance.cpu_time",
                "s",
                "CPU time of its process group.",
                {labels: seconds for labels, (_, seconds) in self._cpu_seconds.items()},
            ),
            gauge_family(
                "mesh.instance.resident_memory",
                "By",
                "Resident memory of its process group.",
                {labels: usage.rss for labels, (_, usage) in measured.items()},
            ),
            gauge_family(
                "mesh.instance.memory_limit",
                "By",
                "Limit on the resident memory of its process group, if configured.",
                {
                    labels: child.config.containment.memory
                    for labels, (child, _) in running.items()
                    if child.config.containment.memory is not None
                },
            ),
            *_descriptor_families("mesh.instance", pids, self._descriptors),
        ]

    def _mesh_families(self) -> list[MetricFamily]:
        resident: dict[Labels, int] = {}
        with contextlib.suppress(OSError):
            resident[_NO_LABELS] = read_own_rss()
        return [
            counter_family(
                "mesh.cpu_time",
                "s",
                "CPU time of the mesh's process.",
                {_NO_LABELS: time.process_time()},
            ),
            gauge_family(
                "mesh.resident_memory",
                "By",
                "Resident memory of the mesh's process.",
                resident,
            ),
            *_descriptor_families("mesh", {_NO_LABELS: os.getpid()}, self._descriptors),
        ]

    def _update_cpu_seconds(self, found: Mapping[Labels, tuple[int, float]]) -> None:
        """Keep the counter of a process from falling when one of its children ends meanwhile."""
        before, self._cpu_seconds = self._cpu_seconds, dict(found)
        for labels, (pid, seconds) in found.items():
            known, highest = before.get(labels, (pid, 0.0))
            if known == pid and highest > seconds:
                self._cpu_seconds[labels] = (pid, highest)


def _read_descriptor_usage(pids: Iterable[int]) -> dict[int, _DescriptorUsage]:
    """Read descriptor usage and limits of processes, except for those of other users."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            limit, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            found[pid] = _DescriptorUsage(len(os.listdir(f"/proc/{pid}/fd")), limit)
    return found


def _descriptor_families(
    prefix: str, pids: Mapping[Labels, int], found: Mapping[int, _DescriptorUsage]
) -> list[MetricFamily]:
    known = {labels: found[pid] for labels, pid in pids.items() if pid in found}
    return [
        gauge_family(
            f"{prefix}.open_descriptors",
            "",
            "Open file descriptors of its process.",
            {labels: each.open for labels, each in known.items()},
        ),
        gauge_family(
            f"{prefix}.max_descriptors",
            "",
            "Limit on the open file descriptors of its process.",
            {labels: each.limit for labels, each in known.items()},
        ),
    ]
