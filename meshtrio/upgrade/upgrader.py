"""Carries out upgrades on request, in the old program."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable

import attrs
import trio

from meshtrio.supervisor.operations import Execution
from meshtrio.upgrade.handover import Handover
from meshtrio.upgrade.program import Program
from meshtrio.upgrade.signal_hold import SignalHold
from meshtrio.upgrade.state import SavedProgram
from meshtrio.util.concurrency import open_collapsing_nursery
from meshtrio.util.errors import UsageError
from meshtrio.util.processes import ProcessInfo

_log = logging.getLogger("meshtrio.mesh")

_FINAL_ATTEMPTS = 50
"""Number of attempts to find an instant at which nothing is in the way, after the connections have
drained."""
_FINAL_PAUSE = 0.1
_FLUSH_TIMEOUT = 1.0
"""Seconds for which the upgrade blocks until the log is written."""


class Upgrader:
    """Upgrades one mesh; `run` carries out what `request` asks for."""

    def __init__(
        self,
        handover: Handover,
        program: Program,
        *,
        descriptor_limit: tuple[int, int] | None,
        flush_log: Callable[[float], None],
    ) -> None:
        """Do nothing until `run`.

        Args:
            handover: The parts of the mesh.
            program: What is executed.
            descriptor_limit: The limit of descriptors before it was raised.
            flush_log: Blocks until the log is written, for a number of seconds at most.
        """
        self._handover = handover
        self._program = program
        self._descriptor_limit = descriptor_limit
        self._flush_log = flush_log
        self._requests = trio.Event()
        self._answer: _Answer | None = None
        """The answer to the requests of an upgrade that is being prepared."""
        self._is_committed = False
        """Whether an upgrade was accepted, and is under way."""

    async def request(self) -> None:
        """Begin an upgrade, and return once it is certain that the new program can take over.

        Cancellation: Ends the wait only.

        Raises:
            UsageError: It cannot; nothing has changed.
        """
        if self._is_committed:
            raise UsageError("an upgrade is under way")
        answer = self._answer = self._answer or _Answer()
        self._requests.set()
        await answer.given.wait()
        if answer.error is not None:
            raise UsageError(answer.error)

    async def run(self) -> None:
        """Carry out upgrades until cancelled, or until one succeeds, which ends the program."""
        async with open_collapsing_nursery() as nursery:
            while True:
                await self._requests.wait()
                self._requests = trio.Event()
                await self._carry_out(nursery)

    async def _carry_out(self, nursery: trio.Nursery) -> None:
        answer = self._answer
        assert answer is not None
        try:
            await self._upgrade(answer, nursery)
        except (UsageError, OSError) as exc:
            _log.error("upgrade failed: %s; the mesh goes on as before", exc)
            if answer.given.is_set():
                operations = self._handover.operations
                failures = operations.execution.failures + 1
                operations.execution = attrs.evolve(
                    operations.execution, failures=failures, problem=str(exc)
                )
            else:
                answer.give(str(exc))
        finally:
            self._answer, self._is_committed = None, False

    async def _upgrade(self, answer: _Answer, nursery: trio.Nursery) -> None:
        """Upgrade. Raises UsageError or OSError if that fails, when nothing has changed."""
        handover = self._handover
        current = handover.operations.execution
        following = attrs.evolve(current, number=current.number + 1)
        _log.info("upgrade: checking the new program")
        await handover.wait_for_operations()
        async with handover.starts_paused():
            await handover.settle()
            saved = handover.save(following)
        await self._program.check(saved, handover.supervisor.make_marker_limit())
        await handover.wait_for_operations()
        async with handover.starts_paused():
            await handover.settle()
            self._is_committed, self._answer = True, None
            answer.give()
            _log.info("upgrade: draining connections")
            async with handover.connections_released(nursery):
                _log.info("upgrade: executing %s", " ".join(self._program.command))
                await self._execute(following)

    async def _execute(self, following: Execution) -> None:
        for _ in range(_FINAL_ATTEMPTS):
            await self._handover.settle()
            await self._try_to_execute(following)
            await trio.sleep(_FINAL_PAUSE)
        raise UsageError("an upgrade is not possible while processes end again and again, or hang")

    async def _try_to_execute(self, following: Execution) -> None:
        """Execute the new program, unless something has come in the way. Raises OSError."""
        hold = SignalHold()
        hold.begin()
        try:
            # Handlers of signals that arrived before have had their effect then, such as a stop.
            for _ in range(3):
                await trio.lowlevel.checkpoint()
            self._flush_log(_FLUSH_TIMEOUT)
            # From here on no other task runs.
            if not self._handover.find_obstacle() and not _has_blocked_thread():
                program = SavedProgram(
                    signal_pipe=hold.pipe,
                    blocked_signals=tuple(sorted(hold.mask)),
                    descriptor_limit=self._descriptor_limit,
                )
                saved = self._handover.save(following)
                self._program.execute(attrs.evolve(saved, program=program))
        finally:
            hold.undo()


def _has_blocked_thread() -> bool:
    """Whether a thread is in the kernel and cannot be killed, as by a filesystem that hangs.

    execve(2) would wait for it, and the mesh with it.
    """
    with contextlib.suppress(OSError):
        for thread in os.listdir("/proc/self/task"):
            if ProcessInfo(f"self/task/{thread}").state == "D":
                return True
    return False


@attrs.define(eq=False)
class _Answer:
    """The answer to the requests of one upgrade."""

    given: trio.Event = attrs.field(factory=trio.Event)
    error: str | None = None

    def give(self, error: str | None = None) -> None:
        self.error = error
        self.given.set()
