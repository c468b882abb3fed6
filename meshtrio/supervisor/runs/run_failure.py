"""Why the process of a run has to be ended by the mesh."""

from __future__ import annotations

import trio

from meshtrio.supervisor.policy.restart import Exit, ExitCause


class RunFailure:
    """The failure for which a process is ended, unless it ends by itself."""

    def __init__(self) -> None:
        self.exit = Exit()
        """Why the process has to be ended; its `reason` is empty if it need not be."""
        self._end_requested = trio.Event()

    @property
    def is_end_requested(self) -> bool:
        """Whether `request_end` was called."""
        return self._end_requested.is_set()

    def request_end(self, reason: str, cause: ExitCause) -> None:
        """Have the process ended for a reason, which is a phrase."""
        self.record(reason, cause)
        self._end_requested.set()

    def record(self, reason: str, cause: ExitCause) -> None:
        """Record why the process is about to be ended."""
        self.exit = Exit(reason=reason, explicit_cause=cause)

    async def wait_end_requested(self) -> None:
        """Wait until `request_end` is called."""
        await self._end_requested.wait()
