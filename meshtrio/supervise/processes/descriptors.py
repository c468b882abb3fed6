"""How many file descriptors this process may have, and that its children do not inherit more.

A soft limit above 1,024 is for programs that know of it: select(2) cannot wait for higher ones. So
the mesh raises its own, which its connections need, and gives each plugin the limit that the mesh
was started with. (systemd's documentation of LimitNOFILE= recommends just that.)
"""

from __future__ import annotations

import contextlib
import logging
import resource

_log = logging.getLogger("meshtrio.mesh")

_NOFILE = resource.RLIMIT_NOFILE


class DescriptorLimit:
    """The soft limit of this process, as it was and as it is."""

    def __init__(self) -> None:
        self._original: tuple[int, int] | None = None
        self._raised: tuple[int, int] | None = None

    def raise_to(self, wanted: int) -> int:
        """Raise the soft limit to `wanted`, or as far as the hard limit allows; gives what it is.

        Never lowers it.
        """
        soft, hard = resource.getrlimit(_NOFILE)
        # One below the hard limit, so that a child which has raised its own limit is told apart.
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard - 1)
        if soft == resource.RLIM_INFINITY or most <= soft:
            return soft
        try:
            resource.setrlimit(_NOFILE, (most, hard))
        except (OSError, ValueError) as exc:
            _log.warning("cannot raise the limit of file descriptors from %d: %s", soft, exc)
            return soft
        self._original, self._raised = (soft, hard), (most, hard)
        return most

    def restore(self, pid: int) -> None:
        """Give a child that was just started the limit that this process was started with.

        Left alone is a child that has set a limit of its own meanwhile, as the launcher does, and
        the runtime of Go.
        """
        if self._original is None:
            return
        with contextlib.suppress(OSError):
            if resource.prlimit(pid, _NOFILE) == self._raised:
                resource.prlimit(pid, _NOFILE, self._original)


LIMIT = DescriptorLimit()
"""That of this process."""
