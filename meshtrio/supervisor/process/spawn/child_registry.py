"""The children that the meshes of this process have started and not reaped yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Reapable(Protocol):
    """A child that cannot be reaped yet; see `ChildProcess`."""

    def try_reap(self) -> bool: ...


class ChildRegistry:
    """Tells our own children from other children of this process, and reaps late ones.

    Other children are those that the rest of the program starts, and orphans that the kernel has
    made children of this process.
    """

    def __init__(self) -> None:
        self.pids: set[int] = set()
        """Pids of the children that have been started and not reaped."""
        self.pending_starts = 0
        """Number of children that are being started, whose pids are not known yet."""
        self.start_count = 0
        """Number of starts so far; a change shows that a child was started meanwhile."""
        self.is_exclusive = False
        """Whether this program starts no processes except for those of its meshes."""
        self._deferred: list[tuple[Reapable, Callable[[], None]]] = []

    def begin_start(self) -> None:
        """Note that a child is being started; `finish_start` has to follow."""
        self.pending_starts += 1
        self.start_count += 1

    def finish_start(self, pid: int | None = None) -> None:
        """Register the child that was started; None if that failed."""
        self.pending_starts -= 1
        if pid is not None:
            self.pids.add(pid)

    def unregister(self, pid: int) -> None:
        """Remove a child that has been reaped: its pid may be reused from now on."""
        self.pids.discard(pid)

    def reap_later(self, child: Reapable, on_reaped: Callable[[], None] = lambda: None) -> None:
        """Reap a child when that becomes possible, then call `on_reaped`.

        This is for children that cannot be killed, and for those that have exited and are held as
        zombies by their tracers. `zombie_reaper` tries once a second while a mesh runs.
        """
        self._deferred.append((child, on_reaped))

    def reap_deferred(self) -> None:
        """Try to reap the children of `reap_later`."""
        children, self._deferred = self._deferred, []
        for child, on_reaped in children:
            if child.try_reap():
                on_reaped()
            else:
                self._deferred.append((child, on_reaped))


CHILD_REGISTRY = ChildRegistry()
"""The registry of this process, which all of its meshes share."""
