"""Faults, each with the class of issue 16 that it belongs to.

A fault is an async function of a `World` that does its damage, undoes what will not end by itself
(a mode, a stopped process) and returns. It draws from `world.rng` only, so that a seed repeats it.
Class 0 is what happens to processes anyway: kills, exits, restarts, scaling and reloads.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from tests.soak.fault_context import FaultContext

FaultFunction = Callable[[FaultContext], Awaitable[None]]


@attrs.frozen
class Fault:
    name: str
    issue_class: int
    """Class of the issue."""
    run: FaultFunction
    weight: int = 1
    """How often it is drawn, compared with others."""
    needs_root: bool = False
    max_seconds: float = 300.0
    """After which it is given up, which is a finding."""


FAULTS: dict[str, Fault] = {}
"""By name, in the order of their modules."""


def register_fault(
    number: int, *, weight: int = 1, needs_root: bool = False, max_seconds: float = 300.0
) -> Callable[[FaultFunction], FaultFunction]:
    """Put a function into the table, by its name."""

    def register(run: FaultFunction) -> FaultFunction:
        name = run.__name__
        FAULTS[name] = Fault(name, number, run, weight, needs_root, max_seconds)
        return run

    return register
