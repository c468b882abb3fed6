"""What the mesh and the processes of its instances use of the machine, beside what they may use."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Iterable, Mapping, Sequence

import attrs
import trio

from meshtrio.supervise.child import Child
from meshtrio.supervise.processes.usage import Usage, own_resident, usage_by_group
from meshtrio.telemetry.families import Family, Labels, counter, gauge, instance_labels

_SELF: Labels = ()


@attrs.frozen
class _Descriptors:
    """File descriptors of one process."""

    open: int
    limit: int


class MachineMetrics:
    """Looked up when somebody asks, as far as the kernel lets us see."""

    def __init__(self) -> None:
        self._cpu: dict[Labels, tuple[int, float]] = {}
        """Of each instance, the process and what its group had used when that was last told."""
        self._used: Mapping[int, Usage] = {}
        self._descriptors: Mapping[int, _Descriptors] = {}

    async def look(self, children: Sequence[Child]) -> None:
        """Look at what there is now, in threads: /proc may be large."""
        pids = {child.process.pid for child in children if child.process is not None}
        self._used = {}
        with contextlib.suppress(OSError, RuntimeError):
            self._used = await usage_by_group()
            self._descriptors = await trio.to_thread.run_sync(
                _descriptors_of, {*pids, os.getpid()}, abandon_on_cancel=True
            )

    def families(self, children: Sequence[Child]) -> list[Family]:
        """What the last look has found."""
        return [*self._of_the_mesh(), *self._of_instances(children)]

    def _of_instances(self, children: Iterable[Child]) -> list[Family]:
        there = {
            instance_labels(child.plugin, child.number): (child, child.process.pid)
            for child in children
            if child.process is not None
        }
        used = self._used
        seen = {labels: (pid, used[pid]) for labels, (_, pid) in there.items() if pid in used}
        self._note({labels: (pid, usage.cpu) for labels, (pid, usage) in seen.items()})
        pids = {labels: pid for labels, (_, pid) in there.items()}
        return [
            counter(
                "mesh.instance.cpu_time",
                "s",
                "CPU time of its process group.",
                {labels: seconds for labels, (_, seconds) in self._cpu.items()},
            ),
            gauge(
                "mesh.instance.resident_memory",
                "By",
                "What its process group has in memory.",
                {labels: usage.resident for labels, (_, usage) in seen.items()},
            ),
            gauge(
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

    def _of_the_mesh(self) -> list[Family]:
        resident: dict[Labels, int] = {}
        with contextlib.suppress(OSError):
            resident[_SELF] = own_resident()
        return [
            counter(
                "mesh.cpu_time",
                "s",
                "CPU time of the process that the mesh is in.",
                {_SELF: time.process_time()},
            ),
            gauge(
                "mesh.resident_memory",
                "By",
                "What the process that the mesh is in has in memory.",
                resident,
            ),
            *_descriptor_families("mesh", {_SELF: os.getpid()}, self._descriptors),
        ]

    def _note(self, found: Mapping[Labels, tuple[int, float]]) -> None:
        """A counter of one process never falls, though a child may end while we look."""
        before, self._cpu = self._cpu, dict(found)
        for labels, (pid, seconds) in found.items():
            known, most = before.get(labels, (pid, 0.0))
            if known == pid and most > seconds:
                self._cpu[labels] = (pid, most)


def _descriptors_of(pids: Iterable[int]) -> dict[int, _Descriptors]:
    """Those that processes have open, and their limits, but for another user's processes."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            limit, _ = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            found[pid] = _Descriptors(len(os.listdir(f"/proc/{pid}/fd")), limit)
    return found


def _descriptor_families(
    about: str, pids: Mapping[Labels, int], found: Mapping[int, _Descriptors]
) -> list[Family]:
    known = {labels: found[pid] for labels, pid in pids.items() if pid in found}
    return [
        gauge(
            f"{about}.open_descriptors",
            "",
            "File descriptors that its process has open.",
            {labels: each.open for labels, each in known.items()},
        ),
        gauge(
            f"{about}.max_descriptors",
            "",
            "File descriptors that its process may have open.",
            {labels: each.limit for labels, each in known.items()},
        ),
    ]
