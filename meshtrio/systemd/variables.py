"""The environment variables of sd_notify(3), sd_watchdog_enabled(3) and sd_listen_fds(3)."""

from __future__ import annotations

import logging
import re
from collections.abc import MutableMapping

import attrs

from meshtrio.contract import SERVICE_MANAGER_VARIABLES

_log = logging.getLogger("meshtrio.mesh")

_NUMBER = re.compile("[0-9]{1,20}")
_MIN_PING_INTERVAL = 0.01
"""Seconds; with a shorter one a mesh would do nothing but go round its loop."""


@attrs.frozen
class ServiceVariables:
    """The variables that systemd has set for this process."""

    values: dict[str, str]
    """Those that were set, by name."""
    pid: int
    """The pid of this process, which some of them have to name."""

    def ping_interval(self) -> float | None:
        """Return the seconds between two messages for the watchdog; None if there is none.

        The watchdog may be one of another process, whose variables this one has inherited.
        """
        text = self.values.get("WATCHDOG_USEC")
        if text is None or not self._names_this_process("WATCHDOG_PID", if_missing=True):
            return None
        if not _NUMBER.fullmatch(text) or not int(text):
            _log.error("WATCHDOG_USEC=%.40r is not a number of microseconds; ignoring it", text)
            return None
        return max(int(text) / 1e6 / 2, _MIN_PING_INTERVAL)

    def passed_descriptors(self) -> tuple[int, list[str]]:
        """Return how many descriptors were passed, and their names, which may be missing.

        Raises:
            ValueError: LISTEN_FDS is malformed.
        """
        if not self._names_this_process("LISTEN_PID", if_missing=False):
            return 0, []
        text = self.values.get("LISTEN_FDS", "0")
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"LISTEN_FDS={text[:40]!r} is not a number of descriptors")
        names = self.values.get("LISTEN_FDNAMES", "")
        return int(text), names.split(":") if names else []

    def _names_this_process(self, name: str, *, if_missing: bool) -> bool:
        text = self.values.get(name)
        if text is None:
            return if_missing
        if not _NUMBER.fullmatch(text):
            _log.error("%s=%.40r is not a process id; ignoring it", name, text)
            return False
        return int(text) == self.pid


def take_variables(environ: MutableMapping[str, str], pid: int) -> ServiceVariables:
    """Remove systemd's variables from an environment, so that no child gets them; return them."""
    found = {name: environ.pop(name) for name in SERVICE_MANAGER_VARIABLES if name in environ}
    return ServiceVariables({name: text for name, text in found.items() if text}, pid)
