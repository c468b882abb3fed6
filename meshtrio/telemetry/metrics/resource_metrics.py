"""Resource usage of the mesh and of its instances' processes, and the limits on it."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

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

ReadUsage = Callable[[], Awaitable[Mapping[int, ResourceUsage]]]


class ResourceMetrics:
    """Samples usage on request, as far as the kernel permits."""

    def __init__(self, read_usage: ReadUsage = read_usage_by_group) -> None:
        """`read_usage` returns the resource usage of all process groups."""
        self._read_usage = read_usage
        self._cpu_seconds: dict[Labels, tuple[int, float]] = {}
        """Process id and CPU seconds of each instance, as of the last collection."""
        self._usage: Mapping[int, ResourceUsage] = {}
        self._descriptors: Mapping[int, tuple[int, int]] = {}
        """Number of open file descriptors, and its limit, by process id."""

    async def sample(self, instances: Sequence[Instance]) -> None:
        """Sample current usage, in threads, since /proc may be large."""
        pids = {each.process.pid for each in instances if each.process is not None}
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
        pids, limits = {}, {}
        for each in instances:
            if each.process is not None:
                key = instance_labels(each.plugin, each.number)
                pids[key], limits[key] = each.process.pid, each.config.containment.memory
        usage = {key: self._usage[pid] for key, pid in pids.items() if pid in self._usage}
        self._update_cpu_seconds({key: (pids[key], each.cpu_time) for key, each in usage.items()})
        cpu_time = {key: seconds for key, (_, seconds) in self._cpu_seconds.items()}
        resident = {key: each.rss for key, each in usage.items()}
        memory_limits = {key: limit for key, limit in limits.items() if limit is not None}
        cpu_text = "CPU time of its process group."
        text = "Resident memory of its process group."
        limit_text = "Limit on the resident memory of its process group, if configured."
        return [
            counter_family("mesh.instance.cpu_time", "s", cpu_text, cpu_time),
            gauge_family("mesh.instance.resident_memory", "By", text, resident),
            gauge_family("mesh.instance.memory_limit", "By", limit_text, memory_limits),
            *self._descriptor_families("mesh.instance", pids),
        ]

    def _mesh_families(self) -> list[MetricFamily]:
        cpu_time, resident = {(): time.process_time()}, {}
        with contextlib.suppress(OSError):
            resident = {(): read_own_rss()}
        text = "Resident memory of the mesh's process."
        return [
            counter_family("mesh.cpu_time", "s", "CPU time of the mesh's process.", cpu_time),
            gauge_family("mesh.resident_memory", "By", text, resident),
            *self._descriptor_families("mesh", {(): os.getpid()}),
        ]

    def _update_cpu_seconds(self, found: Mapping[Labels, tuple[int, float]]) -> None:
        """Keep the counter of a process from falling when one of its children ends meanwhile."""
        before, self._cpu_seconds = self._cpu_seconds, dict(found)
        for labels, (pid, seconds) in found.items():
            known, highest = before.get(labels, (pid, 0.0))
            if known == pid and highest > seconds:
                self._cpu_seconds[labels] = (pid, highest)

    def _descriptor_families(self, prefix: str, pids: Mapping[Labels, int]) -> list[MetricFamily]:
        known = {k: self._descriptors[pid] for k, pid in pids.items() if pid in self._descriptors}
        used = {key: count for key, (count, _) in known.items()}
        limits = {key: limit for key, (_, limit) in known.items()}
        text = "open file descriptors of its process."
        return [
            gauge_family(f"{prefix}.open_descriptors", "", text.capitalize(), used),
            gauge_family(f"{prefix}.max_descriptors", "", f"Limit on the {text}", limits),
        ]


def _read_descriptor_usage(pids: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Read descriptor usage and limits of processes, except for those of other users."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            limit, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            found[pid] = (len(os.listdir(f"/proc/{pid}/fd")), limit)
    return found
