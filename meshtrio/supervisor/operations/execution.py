"""Which execution of its program a mesh is in, and what upgrades it to the next one."""

from __future__ import annotations

from typing import Protocol

import attrs


@attrs.frozen
class Execution:
    """Which execution of its program a mesh is in."""

    number: int = 1
    """1 for the first one; each upgrade adds 1, and 2 if the new program could not take over."""
    failures: int = 0
    """Number of upgrades that have failed after they were accepted."""
    problem: str = ""
    """Why the last one of these has failed."""


class UpgradeHandler(Protocol):
    """Upgrades a mesh."""

    async def request(self) -> None:
        """Begin an upgrade, and return once it is certain that the new program can take over.

        Raises:
            UsageError: It cannot; nothing has changed.
        """
