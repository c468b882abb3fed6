"""The text of STATUS=, which `systemctl status` shows. Pure."""

from __future__ import annotations

from collections.abc import Sequence, Sized
from typing import Protocol

from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.util.text import escape_unprintable

_MAX_DETAILS = 3
"""Plugins that are not ready and named with a reason; others are counted."""
_MAX_NAMES = 5
"""Plugins that are named while the mesh stops."""
_MAX_DETAIL_LENGTH = 160
"""Characters of one of them. systemd takes at most 4,096 bytes in a datagram."""

_PHRASES = {
    InstanceState.PENDING: "waits to be started",
    InstanceState.STARTING: "is starting",
    InstanceState.UNREADY: "is not serving",
    InstanceState.STOPPING: "is stopping",
    InstanceState.ENDED: "has ended",
    InstanceState.IDLE: "is idle",
    InstanceState.BACKOFF: "is started again",
    InstanceState.STOPPED: "is stopped",
    InstanceState.EXITED: "has ended",
    InstanceState.FAILED: "failed",
    InstanceState.ATTACHED: "is replaced by hand",
}
_UP_STATES = (InstanceState.READY, InstanceState.IDLE)
_REASONED_STATES = (InstanceState.FAILED, InstanceState.BACKOFF, InstanceState.EXITED)
"""States that show how the last process ended; the first of these are shown first."""


class ShownInstance(Protocol):
    """What is shown of an instance."""

    @property
    def plugin(self) -> str:
        """The name of its plugin."""

    @property
    def name(self) -> str:
        """Its own name, `plugin/number`."""

    @property
    def state(self) -> InstanceState:
        """Its state."""

    @property
    def is_running(self) -> bool:
        """Whether it has a process."""

    exit_reason: str
    """How its last process ended, as a phrase."""


def describe_mesh(instances: Sequence[ShownInstance], *, is_stopping: bool) -> str:
    """Describe the state of a mesh in a line."""
    by_plugin: dict[str, list[ShownInstance]] = {}
    for instance in instances:
        by_plugin.setdefault(instance.plugin, []).append(instance)
    if is_stopping:
        return _describe_stop(by_plugin)
    missing = {
        plugin: first
        for plugin, members in by_plugin.items()
        if (first := _find_first_unready(members)) is not None
    }
    count = f"{_count(len(by_plugin) - len(missing), by_plugin)} ready"
    # Sorting is stable: the order of the config remains among those of a state.
    urgent = sorted(missing, key=lambda plugin: _urgency(missing[plugin].state))
    details = [
        _describe_instance(missing[plugin], has_others=len(by_plugin[plugin]) > 1)
        for plugin in urgent[:_MAX_DETAILS]
    ]
    if len(urgent) > _MAX_DETAILS:
        details.append(f"and {len(urgent) - _MAX_DETAILS} more")
    return "; ".join([count, *details])


def _describe_stop(by_plugin: dict[str, list[ShownInstance]]) -> str:
    left = [plugin for plugin, own in by_plugin.items() if any(each.is_running for each in own)]
    if not left:
        return "stopping: all plugins have stopped"
    names = left[:_MAX_NAMES] + [f"and {len(left) - _MAX_NAMES} more"][: len(left) > _MAX_NAMES]
    return f"stopping: {_count(len(left), by_plugin)} still running: {', '.join(names)}"


def _count(number: int, by_plugin: Sized) -> str:
    return f"{number} of {len(by_plugin)} plugin{'' if len(by_plugin) == 1 else 's'}"


def _find_first_unready(members: Sequence[ShownInstance]) -> ShownInstance | None:
    unready = [each for each in members if each.state not in _UP_STATES]
    return min(unready, key=lambda each: _urgency(each.state), default=None)


def _urgency(state: InstanceState) -> int:
    """Return a number by which states are sorted, lowest first."""
    found = (*_REASONED_STATES, state)
    return found.index(state)


def _describe_instance(instance: ShownInstance, *, has_others: bool) -> str:
    name = instance.name if has_others else instance.plugin
    text = f"{name} {_PHRASES[instance.state]}"
    if instance.state in _REASONED_STATES and instance.exit_reason:
        text += f": {instance.exit_reason}"
    return shorten_line(text)


def shorten_line(text: str) -> str:
    """Return the first line of a text, cut to a length that fits, and safe for a terminal."""
    line = escape_unprintable(text.partition("\n")[0])
    return line if len(line) <= _MAX_DETAIL_LENGTH else f"{line[: _MAX_DETAIL_LENGTH - 1]}…"
