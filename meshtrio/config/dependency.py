"""What a plugin, group or task waits for before it is started: `depends_on`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

import attrs


class DependencyCondition(Enum):
    """What has to be true of a dependency."""

    READY = "ready"
    """An instance of the plugin, or of each plugin of the group, is ready."""
    COMPLETED = "completed"
    """The task has run successfully, or all instances of the plugin have exited successfully."""


@attrs.frozen
class Dependency:
    """A plugin, group or task that has to be ready, or to have completed."""

    name: str
    """Name of the plugin, group or task."""
    condition: DependencyCondition = DependencyCondition.READY
    """What has to be true of it."""

    def __str__(self) -> str:
        is_ready = self.condition is DependencyCondition.READY
        return self.name if is_ready else f"{self.name} ({self.condition.value})"


def to_dependencies(
    value: Iterable[str | Dependency] | Mapping[str, str | DependencyCondition],
) -> tuple[Dependency, ...]:
    """Convert names, which have to be ready, or a mapping of names to conditions.

    Raises ValueError for an unknown condition.
    """
    if isinstance(value, Mapping):
        return tuple(Dependency(name, _to_condition(name, value[name])) for name in value)
    return tuple(each if isinstance(each, Dependency) else Dependency(each) for each in value)


def _to_condition(name: str, value: str | DependencyCondition) -> DependencyCondition:
    try:
        return DependencyCondition(value)
    except ValueError:
        known = " or ".join(f'"{each.value}"' for each in DependencyCondition)
        raise ValueError(f"{name!r} must be {known}, not {value!r}") from None
