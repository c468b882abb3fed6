"""What operations return."""

from __future__ import annotations

import attrs

from meshtrio.supervisor.policy.restart import Exit


@attrs.frozen
class DrainResult:
    """How an instance was stopped."""

    plugin: str
    """The name of its plugin."""
    instance: int
    """Its number, from 0."""
    exit: Exit | None = None
    """How its process ended, None if it had none."""
    was_killed: bool = False
    """Whether the process was killed, since it did not stop within its `stop_timeout`."""
    cut_calls: tuple[str, ...] = ()
    """Paths of the calls that were cut at the end of `stop_timeout`, as far as they are known."""
    cut_calls_known: bool = True
    """Whether `cut_calls` is complete. Plugins made with meshtrio report these calls at the end of
    their drain; it is not known of other plugins and of those that were killed before."""


@attrs.frozen
class ReloadResult:
    """What a reload changed, by the names of plugins and tasks."""

    added: tuple[str, ...] = ()
    """Plugins that are new, and were started, and new tasks."""
    removed: tuple[str, ...] = ()
    """Plugins and tasks that the config no longer has, and that were stopped."""
    restarted: tuple[str, ...] = ()
    """Plugins whose processes were replaced."""
    scaled: tuple[str, ...] = ()
    """Plugins whose number of instances was changed."""
    adjusted: tuple[str, ...] = ()
    """Plugins whose supervision was changed, and whose processes were not; tasks that were changed.
    """
