"""Decides whether the start of a mesh is over: a pure function of its instances.

It is over once nothing is to be expected of any instance. An instance that has been ready once is
not waited for again, otherwise plugins that crash in turn would keep the mesh from ever being
ready. One that fails before it is ready is given a few attempts, since its restart policy may start
it again for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Protocol, TypeVar

from meshtrio.config.topology import Dependencies
from meshtrio.supervisor.policy.state import InstancePhase

_ATTEMPTS = 3
"""Number of starts that may fail before the mesh is ready without the instance."""


class StartingInstance(Protocol):
    """What is read of an instance."""

    @property
    def plugin(self) -> str:
        """The name of its plugin."""

    @property
    def key(self) -> tuple[str, int]:
        """What identifies it."""

    phase: InstancePhase
    """What the supervisor is doing with it."""

    @property
    def is_running(self) -> bool:
        """Whether it has a process."""

    @property
    def is_available(self) -> bool:
        """Whether its process is ready, or is started at the first connection."""

    failed_starts: int
    """Number of its processes that ended before they were ready."""


I = TypeVar("I", bound=StartingInstance)  # noqa: E741


def find_unsettled(
    instances: Sequence[I],
    dependencies: Dependencies,
    were_ready: Collection[tuple[str, int]],
    is_blocked: Callable[[str], bool] = lambda _: False,
) -> list[I]:
    """Find the instances that the start of a mesh waits for.

    Args:
        instances: The table of instances.
        dependencies: What each plugin waits for.
        were_ready: The keys of instances that have been ready.
        is_blocked: Tells whether a plugin waits for a task that has failed, for example.
    """
    by_plugin: dict[str, list[I]] = {}
    for instance in instances:
        by_plugin.setdefault(instance.plugin, []).append(instance)
    given_up: dict[str, bool] = {}

    def is_given_up(plugin: str) -> bool:
        """Whether none of a plugin's instances is ready or expected to be."""
        if plugin not in given_up:
            given_up[plugin] = True  # No plugin depends on itself.
            given_up[plugin] = not any(
                each.is_available or is_expected(each) for each in by_plugin.get(plugin, ())
            )
        return given_up[plugin]

    def is_expected(instance: I) -> bool:
        if instance.phase.is_final or instance.failed_starts >= _ATTEMPTS:
            return False
        needed = dependencies.get(instance.plugin, frozenset())
        is_startable = not any(map(is_given_up, needed)) and not is_blocked(instance.plugin)
        return instance.is_running or is_startable

    return [
        each
        for each in instances
        if not each.is_available and each.key not in were_ready and is_expected(each)
    ]
