"""Which operations are in progress."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from meshtrio.util.errors import UsageError


class OperationProgress:
    """Counts the operations that are waited for, and rejects others during an upgrade."""

    def __init__(self) -> None:
        self.in_progress: Counter[str] = Counter()
        """Operations that are waited for, as phrases."""
        self.is_upgrading = False
        """Whether operations are rejected, since an upgrade is about to end them."""
        self._ended = trio.lowlevel.ParkingLot()

    @contextmanager
    def tracked(self, description: str) -> Iterator[None]:
        """Count an operation as in progress during the block. Raises UsageError in an upgrade."""
        self.check_not_upgrading()
        self.in_progress[description] += 1
        try:
            yield
        finally:
            self.in_progress -= Counter([description])
            self._ended.unpark_all()

    def check_not_upgrading(self) -> None:
        """Raise UsageError if the mesh is being upgraded."""
        if self.is_upgrading:
            raise UsageError("the mesh is being upgraded; try again")

    async def wait_until_idle(self) -> None:
        """Wait until no operation is in progress."""
        while self.in_progress:
            await self._ended.park()
