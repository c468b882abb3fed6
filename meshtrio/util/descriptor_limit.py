"""Raises the descriptor limit of this process (RLIMIT_NOFILE), and restores it in its children.

The usual soft limit of 1,024 is for programs that use select(2), which cannot wait for higher
descriptors. So the mesh and plugins made with meshtrio raise theirs to the hard limit, and the mesh
gives each plugin the limit that it was started with itself. systemd recommends it (LimitNOFILE=),
and Go's runtime does it. What a plugin starts inherits the plugin's raised limit: in Python,
another one before exec takes a preexec_fn, and so fork instead of vfork.
"""

from __future__ import annotations

import contextlib
import logging
import resource

_log = logging.getLogger("meshtrio.mesh")

_NOFILE = resource.RLIMIT_NOFILE
_MAX_SOFT_LIMIT = 2**20
"""The kernel's default maximum (fs.nr_open). Some containers have a hard limit of 2**30, with which
programs that close all descriptors up to their limit before exec take minutes."""


class DescriptorLimit:
    """The soft limit of this process, which can be raised once, to `max_soft_limit` at most."""

    def __init__(self, max_soft_limit: int = _MAX_SOFT_LIMIT) -> None:
        self._max_soft_limit = max_soft_limit
        self._original: tuple[int, int] | None = None
        self._raised: tuple[int, int] | None = None

    @property
    def original(self) -> tuple[int, int] | None:
        """The soft and the hard limit before it was raised; None if it was not."""
        return self._original

    def adopt(self, original: tuple[int, int] | None) -> None:
        """Continue after this process has executed itself again with its raised limit."""
        if original is not None:
            self._original, self._raised = original, resource.getrlimit(_NOFILE)

    def raise_to_hard_limit(self) -> int:
        """Raise the soft limit to the hard limit minus one, and return the soft limit.

        Minus one, so that a child that has raised its own limit differs from one that has not. It
        is raised to `max_soft_limit` at most; a higher limit is left unchanged.
        """
        soft, hard = resource.getrlimit(_NOFILE)
        wanted = min(hard - 1, self._max_soft_limit)
        if hard == resource.RLIM_INFINITY or soft >= wanted:
            return soft
        try:
            resource.setrlimit(_NOFILE, (wanted, hard))
        except (OSError, ValueError) as exc:
            _log.warning("cannot raise the descriptor limit (RLIMIT_NOFILE) from %d: %s", soft, exc)
            return soft
        self._original, self._raised = (soft, hard), (wanted, hard)
        return wanted

    def restore_in_child(self, pid: int) -> None:
        """Restore the original limit in a child that was just started.

        Does nothing if the child has set a limit itself meanwhile, as the launcher and Go's runtime
        do.
        """
        if self._original is None:
            return
        with contextlib.suppress(OSError):
            if resource.prlimit(pid, _NOFILE) == self._raised:
                resource.prlimit(pid, _NOFILE, self._original)


DESCRIPTOR_LIMIT = DescriptorLimit()
"""The limit of this process."""
