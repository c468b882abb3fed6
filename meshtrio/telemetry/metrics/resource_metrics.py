"""What the mesh and the processes of its instances use of the machine, beside what they may use."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterable, Mapping, Sequence

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


@attrs.frozen
class _DescriptorUsage:
    """File descriptors of one process."""

    open: int
    limit: int


class ResourceMetrics:
    """Looked up when somebody asks, as far as the kernel lets us see."""

    def __init__(self) -> None:
        self._cpu_seconds: dict[Labels, tuple[int, float]] = {}
        """Of each instance, the process and what its group had used when that was last told."""
        self._usage: Mapping[int, ResourceUsage] = {}
        self._descriptors: Mapping[int, _DescriptorUsage] = {}

    async def sample(self, instances: Sequence[Instance]) -> None:
        """Look at what there is now, in threads: /proc may be large."""
        pids = {child.process.pid for child in instances if child.process is not None}
        self._usage = {}
        with contextlib.suppress(OSError, RuntimeError):
            self._usage = await read_usage_by_group()
            self._descriptors = await trio.to_thread.run_sync(
                _read_descriptor_usage, {*pids, os.getpid()}, abandon_on_cancel=True
            )

    def collect(self, instances: Sequence[Instance]) -> list[MetricFamily]:
        """What the last look has found."""
        return [*self._mesh_families(), *self._instance_families(instances)]

    def _instance_families(self, instances: Iterable[Instance]) -> list[MetricFamily]:
        there = {
            instance_labels(child.plugin, child.number): (child, child.process.pid)
            for child in instances
            if child.process is not None
        }
        used = self._usage
        seen = {labels: (pid, used[pid]) for labels, (_, pid) in there.items() if pid in used}
        self._update_cpu_seconds(
            {labels: (pid, usage.cpu_time) for labels, (pid, usage) in seen.items()}
        )
        pids = {labels: pid for labels, (_, pid) in there.items()}
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
                "What its process group has in memory.",
                {labels: usage.rss for labels, (_, usage) in seen.items()},
            ),
            gauge_family(
                "mesh.instance.memory_limit",
                "By",
                "What its process group may have in memory, where its config says so.",
                {
                    labels: child.config.containment.memory
                    for labels, (child, _) in there.items()
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
                "CPU time of the process that the mesh is in.",
                {_NO_LABELS: time.process_time()},
            ),
            gauge_family(
                "mesh.resident_memory",
                "By",
                "What the process that the mesh is in has in memory.",
                resident,
            ),
            *_descriptor_families("mesh", {_NO_LABELS: os.getpid()}, self._descriptors),
        ]

    def _update_cpu_seconds(self, found: Mapping[Labels, tuple[int, float]]) -> None:
        """A counter of one process never falls, though a child may end while we look."""
        before, self._cpu_seconds = self._cpu_seconds, dict(found)
        for labels, (pid, seconds) in found.items():
            known, most = before.get(labels, (pid, 0.0))
            if known == pid and most > seconds:
                self._cpu_seconds[labels] = (pid, most)


def _read_descriptor_usage(pids: Iterable[int]) -> dict[int, _DescriptorUsage]:
    """Those that processes have open, and their limits, but for another user's processes."""
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
            "File descriptors that its process has open.",
            {labels: each.open for labels, each in known.items()},
        ),
        gauge_family(
            f"{prefix}.max_descriptors",
            "",
            "File descriptors that its process may have open.",
            {labels: each.limit for labels, each in known.items()},
        ),
    ]
