"""The limit of file descriptors of this process (RLIMIT_NOFILE), which its children do not inherit.

A soft limit of 1,024 is for programs that use select(2), which cannot wait for higher descriptors.
So the mesh and plugins made with meshtrio raise theirs to the hard limit, and the mesh gives each
plugin the limit that the mesh was started with. systemd recommends this (LimitNOFILE=), and Go's
runtime does it. What a plugin starts inherits the plugin's raised limit: Python can give a child
another one before exec only by forking instead of vfork, see subprocess's preexec_fn.
"""

from __future__ import annotations

import contextlib
import logging
import resource

_log = logging.getLogger("meshtrio.mesh")

_NOFILE = resource.RLIMIT_NOFILE
MAX_SOFT_LIMIT = 2**20
"""The kernel's own default maximum (fs.nr_open). Some containers have a hard limit of 2**30, with
which programs that close all descriptors up to their limit before an exec take minutes."""


class DescriptorLimit:
    """The soft limit of this process, as it was and as it is."""

    def __init__(self) -> None:
        self._original: tuple[int, int] | None = None
        self._raised: tuple[int, int] | None = None

    def raise_to_hard_limit(self) -> int:
        """Raise the soft limit to the hard limit, less one; gives what it is then.

        One below, so that a child which has raised its own limit can be told from one that has not.
        A limit of more than `MAX_SOFT_LIMIT` is left to those who set it.
        """
        soft, hard = resource.getrlimit(_NOFILE)
        wanted = min(hard - 1, MAX_SOFT_LIMIT)
        if hard == resource.RLIM_INFINITY or soft >= wanted:
            return soft
        try:
            resource.setrlimit(_NOFILE, (wanted, hard))
        except (OSError, ValueError) as exc:
            _log.warning("cannot raise the limit of file descriptors from %d: %s", soft, exc)
            return soft
        self._original, self._raised = (soft, hard), (wanted, hard)
        return wanted

    def restore_in_child(self, pid: int) -> None:
        """Give a child that was just started the limit that this process was started with.

        Left alone is a child that has set a limit of its own meanwhile, as the launcher does, and
        the runtime of Go.
        """
        if self._original is None:
            return
        with contextlib.suppress(OSError):
            if resource.prlimit(pid, _NOFILE) == self._raised:
                resource.prlimit(pid, _NOFILE, self._original)


DESCRIPTOR_LIMIT = DescriptorLimit()
"""That of this process."""
