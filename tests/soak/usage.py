"""Memory and descriptors of the mesh and its plugins, at two times."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from tests.attacks.memory import resident_and_peak

MEMORY_TOLERANCE = 96.0
"""MiB that a process may have more than at the start. The allocator keeps some of what it was given
at a peak, in pieces (38 MiB after 4,096 watches, which is all that one user may have), and caches
(descriptors of plugins, HPACK blocks, 200 lines of output of each instance) fill within the first
minutes; a leak of faults or calls goes beyond that in an hour."""
DESCRIPTOR_TOLERANCE = 24
"""Descriptors that a process may have more than at the start: a client has two connections to a
plugin for a moment when one of them is replaced, and twenty clients do not always call all."""


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
        found["the mesh"] = mesh
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
        if now.memory > then.memory + MEMORY_TOLERANCE:
            found.append(f"memory of {name}: {then.memory:.0f} MiB, now {now.memory:.0f}")
        if now.descriptors > then.descriptors + DESCRIPTOR_TOLERANCE:
            found.append(f"descriptors of {name}: {then.descriptors}, now {now.descriptors}")
    return found
