"""Resource usage of the mesh and of its instances' processes, and the limits on it."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterable, Mapping, Sequence

import trio

from meshtrio.config import StartMethod
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.process.proc.resource_usage import (
    ResourceUsage,
    read_own_rss,
    read_pss_by_group,
    read_usage_by_group,
)
from meshtrio.telemetry.metric_families import Labels, MetricFamily, instance_labels


class ResourceMetrics:
    """Samples usage on request, as far as the kernel permits."""

    def __init__(self) -> None:
        self._cpu_seconds: dict[tuple[Labels, int], float] = {}
        """By the labels and the process id of each instance, as of the last collection."""
        self._usage: Mapping[int, ResourceUsage] = {}
        self._pss: Mapping[int, int] = {}
        """Proportional set size of the process groups of forked instances, in bytes."""
        self._descriptors: Mapping[int, tuple[int, int]] = {}
        """Number of open file descriptors, and its limit, by process id."""

    async def sample(self, instances: Sequence[Instance]) -> None:
        """Sample current usage, in threads, since /proc may be large."""
        pids = {each.process.pid for each in instances if each.process is not None}
        self._usage, self._pss = {}, {}
        with contextlib.suppress(OSError, RuntimeError):
            self._usage = await read_usage_by_group()
            # Of those that share most of their memory, since it takes time to read.
            self._pss = await read_pss_by_group(
                {
                    each.process.pid
                    for each in instances
                    if each.process is not None and each.process.start_method is StartMethod.FORK
                }
            )
            self._descriptors = await trio.to_thread.run_sync(
                _read_descriptor_usage, {*pids, os.getpid()}, abandon_on_cancel=True
            )

    def collect(self, instances: Sequence[Instance]) -> list[MetricFamily]:
        """Return the families of the last sample."""
        return [*self._mesh_families(), *self._instance_families(instances)]

    def _instance_families(self, instances: Iterable[Instance]) -> list[MetricFamily]:
        text = "Limit on the resident memory of its process group, if configured."
        memory_limit = MetricFamily.gauge("mesh.instance.memory_limit", "By", text)
        text = "Resident memory of its process group."
        resident_memory = MetricFamily.gauge("mesh.instance.resident_memory", "By", text)
        text = "The same with shared pages divided by the number of sharers, if it was forked."
        shared_memory = MetricFamily.gauge("mesh.instance.proportional_memory", "By", text)
        text = "CPU time of its process group."
        cpu_time = MetricFamily.counter("mesh.instance.cpu_time", "s", text)
        before, self._cpu_seconds = self._cpu_seconds, {}
        pids: dict[Labels, int] = {}
        for each in instances:
            if each.process is None:
                continue
            labels, pid = instance_labels(each.plugin, each.number), each.process.pid
            pids[labels] = pid
            if each.config.containment.memory is not None:
                memory_limit.add(labels, each.config.containment.memory)
            if (usage := self._usage.get(pid)) is not None:
                # The sum falls when one of its children ends, which a counter must not.
                seconds = max(usage.cpu_time, before.get((labels, pid), 0.0))
                self._cpu_seconds[labels, pid] = seconds
                cpu_time.add(labels, seconds)
                resident_memory.add(labels, usage.rss)
            if pid in self._pss:
                shared_memory.add(labels, self._pss[pid])
        descriptors = self._descriptor_families("mesh.instance", pids)
        return [cpu_time, resident_memory, shared_memory, memory_limit, *descriptors]

    def _mesh_families(self) -> list[MetricFamily]:
        cpu_time, resident = {(): time.process_time()}, {}
        with contextlib.suppress(OSError):
            resident = {(): read_own_rss()}
        text = "Resident memory of the mesh's process."
        return [
            MetricFamily.counter("mesh.cpu_time", "s", "CPU time of the mesh's process.", cpu_time),
            MetricFamily.gauge("mesh.resident_memory", "By", text, resident),
            *self._descriptor_families("mesh", {(): os.getpid()}),
        ]

    def _descriptor_families(self, prefix: str, pids: Mapping[Labels, int]) -> list[MetricFamily]:
        text = "open file descriptors of its process."
        used = MetricFamily.gauge(f"{prefix}.open_descriptors", "", text.capitalize())
        limits = MetricFamily.gauge(f"{prefix}.max_descriptors", "", f"Limit on the {text}")
        for labels, pid in pids.items():
            if pid in self._descriptors:
                count, limit = self._descriptors[pid]
                used.add(labels, count)
                limits.add(labels, limit)
        return [used, limits]


def _read_descriptor_usage(pids: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Read descriptor usage and limits of processes, except for those of other users."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            limit, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            found[pid] = (len(os.listdir(f"/proc/{pid}/fd")), limit)
    return found
