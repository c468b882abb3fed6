"""Descendants of plugins that have become children of the mesh, and carry no mark any more.

If the mesh is a subreaper, a child that it has not started descends from a plugin, however little
it has kept of what it was given: its group, session, environment and limits. Those that still carry
a mark are found by that. Of the others it is only known that their plugin ran when they were first
seen.
"""

from __future__ import annotations

import logging
import os
import select
import signal
from collections.abc import Iterable

import attrs
import trio

from meshtrio.structured import next_beat
from meshtrio.supervise.processes import marks, orphans, subreaper
from meshtrio.supervise.processes.launch import Launch
from meshtrio.supervise.processes.warden import Warden

_log = logging.getLogger("meshtrio.mesh")

_LOOK_EVERY = 1.0
_ROUNDS = 120
_PAUSE = 0.025
_WARDENS_WITHIN = 2.0
"""Seconds that the wardens of meshes in plugins have to end."""


@attrs.frozen
class _Adopted:
    pidfd: int
    plugins: frozenset[int]
    """The pids of the plugins of which one has started it."""

    @property
    def ended(self) -> bool:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))


class Adoption:
    """Watches over unmarked children of the mesh, and ends each after its plugin."""

    def __init__(self, launch: Launch, warden: Warden) -> None:
        self._launch = launch
        self._warden = warden
        self._adopted: dict[int, _Adopted] = {}
        self._marked: set[int] = set()
        """Children that carry a mark, and are found by that."""
        self._left: set[int] = set()
        """Those that cannot be killed, which was logged."""

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look once a second, until cancelled; then end all of them, within seconds."""
        task_status.started()
        if not subreaper.is_one():
            return
        # What a plugin has left is not a successor's.
        self._warden.plugin_ended = self._look
        try:
            while True:
                await next_beat(_LOOK_EVERY)
                self._look()
                self._kill_those_without_plugin()
        finally:
            self._warden.plugin_ended = lambda: None
            with trio.CancelScope(shield=True):
                await self._end_all()

    async def _end_all(self) -> None:
        """End all of them, and what is ours once one of them has ended."""
        wardens_end = trio.current_time() + _WARDENS_WITHIN
        for _ in range(_ROUNDS):
            self._look()
            for pid in list(self._adopted):
                self._kill(pid)
            wardens = [pid for pid in self._unknown() if marks.is_warden(pid)]
            if wardens and trio.current_time() >= wardens_end:
                self._adopt_all(wardens)
            elif not wardens and not self._adopted:
                return
            await trio.sleep(_PAUSE)

    def _look(self) -> None:
        """Forget those that have ended, and adopt new ones."""
        for pid, adopted in list(self._adopted.items()):
            if adopted.ended:
                self._warden.forget_adopted(pid)
                os.close(self._adopted.pop(pid).pidfd)
        # A warden of a mesh in a plugin has something to do, and ends by itself.
        self._adopt_all(pid for pid in self._unknown() if not marks.is_warden(pid))

    def _unknown(self) -> list[int]:
        """The live children that were neither started nor adopted, and carry no mark of ours."""
        if not orphans.are_known():
            return []  # one of them may just have been started
        children = set(subreaper.children())
        self._marked &= children
        try:
            return [
                pid
                for pid in children - self._adopted.keys() - self._marked
                if not orphans.was_started(pid) and self._is_unmarked(pid)
            ]
        except OSError:
            return []  # there is no descriptor; the next look comes

    def _is_unmarked(self, pid: int) -> bool:
        """Whether a child lives and carries no mark; remembers those that do."""
        if self._launch.mark.look_at(pid) is not None:
            self._marked.add(pid)
            return False
        return marks.Status(pid).alive

    def _adopt_all(self, pids: Iterable[int]) -> None:
        for pid in pids:
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                continue
            self._adopted[pid] = _Adopted(pidfd, self._warden.plugins)
            self._warden.watch_adopted(pid, pidfd)
            _log.info("adopted pid %d, which a plugin has left without a mark of the mesh", pid)

    def _kill_those_without_plugin(self) -> None:
        for pid, adopted in self._adopted.items():
            if not adopted.plugins & self._warden.plugins:
                self._kill(pid)

    def _kill(self, pid: int) -> None:
        adopted = self._adopted[pid]
        try:
            signal.pidfd_send_signal(adopted.pidfd, signal.SIGKILL)
        except ProcessLookupError:
            return
        except OSError as exc:
            if pid not in self._left:
                self._left.add(pid)
                _log.warning("cannot kill pid %d, which a plugin has left: %s", pid, exc.strerror)
            return
        _log.info("killed pid %d, which a plugin has left", pid)
