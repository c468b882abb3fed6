"""Memory and descriptors of the mesh and its plugins, at two times."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import attrs

from tests.attacks.memory import resident_and_peak

MEMORY_TOLERANCE = 96.0
"""MiB that a plugin's process may have more than at the start."""
MESH_MEMORY_TOLERANCE = 160.0
"""MiB that the mesh may have more than at the start. Its caches (descriptors of plugins, HPACK
blocks, 200 lines of output of each instance) fill within the first minutes. Attacks up to their
bounds take up to 180 MiB for a moment, and CPython keeps an arena of 1 MiB as long as a single
object in it is alive: of 59 arenas in the midst of attacks 30 MiB were in use."""
MEMORY_TREND_TOLERANCE = 24.0
"""MiB by which the mesh's median may grow from the second third of a run to its last sixth. What
each of a thousand faults, or of ten thousand calls, left behind would be more."""
_MIN_TREND_SAMPLES = 120
"""Runs with fewer are too short for a trend: ten minutes."""
DESCRIPTOR_TOLERANCE = 24
"""Descriptors that a process may have more than at the start: a client has two connections to a
plugin for a moment when one of them is replaced, and twenty clients do not always call all."""


MESH = "the mesh"


@attrs.frozen
class Usage:
    memory: float
    """MiB, resident."""
    descriptors: int


def measure_usage(pid: int) -> Usage | None:
    """Return what a process uses, None if it has ended."""
    try:
        return Usage(resident_and_peak(pid)[0], len(os.listdir(f"/proc/{pid}/fd")))
    except OSError:
        return None


def measure_all_usage(mesh_pid: int, instances: Iterable[Any]) -> dict[str, Usage]:
    """Return what the mesh uses, and of each plugin the most of its instances."""
    found = {}
    mesh = measure_usage(mesh_pid)
    if mesh is not None:
        found[MESH] = mesh
    for instance in instances:
        usage = measure_usage(instance.pid) if instance.pid else None
        if usage is not None:
            before = found.get(instance.name, Usage(0.0, 0))
            found[instance.name] = Usage(
                max(before.memory, usage.memory), max(before.descriptors, usage.descriptors)
            )
    return found


def find_growth(before: Mapping[str, Usage], after: Mapping[str, Usage]) -> list[str]:
    """Return what uses more than at the start, beyond the tolerances."""
    found = []
    for name, then in before.items():
        now = after.get(name)
        if now is None:
            found.append(f"{name} has no process at the end")
            continue
        tolerance = MESH_MEMORY_TOLERANCE if name == MESH else MEMORY_TOLERANCE
        if now.memory > then.memory + tolerance:
            found.append(f"memory of {name}: {then.memory:.0f} MiB, now {now.memory:.0f}")
        if now.descriptors > then.descriptors + DESCRIPTOR_TOLERANCE:
            found.append(f"descriptors of {name}: {then.descriptors}, now {now.descriptors}")
    return found


def find_trend(samples: Sequence[float]) -> list[str]:
    """Return whether memory grew on after the first third of a run; `samples` are in MiB."""
    if len(samples) < _MIN_TREND_SAMPLES:
        return []
    third, sixth = len(samples) // 3, len(samples) // 6
    then, now = median(samples[third : third + sixth]), median(samples[-sixth:])
    if now <= then + MEMORY_TREND_TOLERANCE:
        return []
    return [
        f"memory of {MESH} grows: {then:.0f} MiB after a third of the run, {now:.0f} at its end"
    ]
