"""Receives what a process run reports by sd_notify(3), and keeps it.

Only processes of the run are listened to: the kernel attaches the sender's pid to each datagram
(SCM_CREDENTIALS). A sender that has exited by the time that its datagram is read, as a command in a
shell script may have, cannot be looked up any more. It is believed if it had a user of the run: a
process of these users could as well be a debugger of the program, and the file of the socket keeps
out others.

Descriptors that come with a datagram are discarded by the kernel, as there is no room for them in
the buffer for ancillary data. For a BARRIER=1 that is the answer it waits for.
"""

from __future__ import annotations

import logging
import math
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs
import trio

from meshtrio.supervisor.process.cleanup.process_tree import ProcessTree
from meshtrio.supervisor.process.proc import procfs
from meshtrio.supervisor.process.saved_processes import from_monotonic, to_monotonic
from meshtrio.supervisor.readiness.notification import Notification, parse_notification
from meshtrio.util.log_once import OncePerReasonLogger

_log = logging.getLogger("meshtrio.mesh")

_MAX_DATAGRAM_SIZE = 4096
"""Maximum bytes of a notification, as for systemd; longer ones are ignored."""
_MAX_DATAGRAMS_PER_WAKEUP = 16
_WAKEUP_INTERVAL = 0.01
"""Minimum seconds between two wake-ups. The senders of more datagrams wait, since the kernel's
queue for a socket is short (net.unix.max_dgram_qlen)."""
_VERDICT_TTL = 1.0
"""Seconds for which the verdict on a sender in another session and group is cached."""
_CREDENTIALS = struct.Struct("=iII")
"""The kernel's struct ucred: pid, uid, gid."""


@attrs.frozen
class _Sender:
    """Credentials that came with a datagram."""

    pid: int
    uid: int


@attrs.frozen(kw_only=True)
class SavedChannel:
    """What an upgrade hands over of a channel; see `process.saved_processes` for its times."""

    descriptor: int
    uids: tuple[int, ...]
    is_ready: bool = False
    is_stopping: bool = False
    status: str = ""
    is_watched: bool = False
    last_alive_at: float
    watchdog_interval: float | None = None
    extended_until: float


@attrs.define(eq=False)
class NotifyChannel:
    """The notifications of one process run, from before its start to its end."""

    name: str
    """The name of the instance, for the log."""
    _sock: socket.socket
    _uids: frozenset[int]
    """The users whose processes are believed when they have exited."""
    on_stopping: Callable[[], None] = attrs.field(default=lambda: None, init=False)
    """Called when the process first reports that it is about to exit."""
    on_failed: Callable[[], None] = attrs.field(default=lambda: None, init=False)
    """Called when the process reports that it is to be ended."""
    ready: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when the process has reported that it is ready."""
    stopping: trio.Event = attrs.field(factory=trio.Event, init=False)
    """Set when the process has reported that it is about to exit, which it cannot take back."""
    status: str = attrs.field(default="", init=False)
    """The last status that it has reported; "" for none."""
    is_watched: bool = attrs.field(default=False, init=False)
    """Whether it has reported to be alive, or how often it will."""
    last_alive_at: float = attrs.field(factory=trio.current_time, init=False)
    """When it last reported to be alive."""
    watchdog_interval: float | None = attrs.field(default=None, init=False)
    """Seconds for which it may report nothing, if it has changed them."""
    _reported_alive: trio.Event = attrs.field(factory=trio.Event, init=False)
    _deadlines: dict[trio.CancelScope, float] = attrs.field(factory=dict, init=False)
    """The scopes of the current timeouts, and the deadlines that they had at first."""
    _extended_until: float = attrs.field(default=-math.inf, init=False)
    """Until when the process has last asked for more time, before it was ready or since then."""
    _verdict: tuple[_Sender, bool, float] | None = attrs.field(default=None, init=False)
    """The sender that was last looked up, whether it is one of the processes, and when."""
    _warnings: OncePerReasonLogger = attrs.field(
        factory=lambda: OncePerReasonLogger(_log), init=False
    )

    def save(self) -> SavedChannel:
        """Return what an upgrade hands over."""
        return SavedChannel(
            descriptor=self._sock.fileno(),
            uids=tuple(self._uids),
            is_ready=self.ready.is_set(),
            is_stopping=self.stopping.is_set(),
            status=self.status,
            is_watched=self.is_watched,
            last_alive_at=to_monotonic(self.last_alive_at),
            watchdog_interval=self.watchdog_interval,
            extended_until=to_monotonic(self._extended_until),
        )

    @classmethod
    def adopt(cls, name: str, sock: socket.socket, saved: SavedChannel) -> NotifyChannel:
        """Return the channel that was handed over, with its socket."""
        channel = cls(name, sock, frozenset(saved.uids))
        if saved.is_ready:
            channel.ready.set()
        if saved.is_stopping:
            channel.stopping.set()
        channel.status, channel.is_watched = saved.status, saved.is_watched
        channel.last_alive_at = from_monotonic(saved.last_alive_at)
        channel.watchdog_interval = saved.watchdog_interval
        channel._extended_until = from_monotonic(saved.extended_until)
        return channel

    @contextmanager
    def extending(self, scope: trio.CancelScope, *, counts_earlier: bool = False) -> Iterator[None]:
        """Let the process extend the deadline of a scope, for the block.

        The deadline is never before the one that the scope has at first. `counts_earlier` if what
        the process has asked for since it became ready counts, too: it may have been read before
        this was called.
        """
        self._deadlines[scope] = scope.deadline
        if counts_earlier:
            scope.deadline = max(scope.deadline, self._extended_until)
        try:
            yield
        finally:
            del self._deadlines[scope]

    async def wait_alive(self) -> None:
        """Wait until the process reports to be alive."""
        await self._reported_alive.wait()

    @asynccontextmanager
    async def receiving(self, processes: ProcessTree) -> AsyncIterator[None]:
        """Receive notifications of these processes during the block.

        Cancellation: They are received until the end of the block even so.
        """
        scope = trio.CancelScope(shield=True)

        async def receive() -> None:
            with scope:
                try:
                    await self._receive_forever(processes)
                except Exception:
                    _log.exception("%s: its notifications are no longer received", self.name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            try:
                yield
            finally:
                scope.cancel()

    async def _receive_forever(self, processes: ProcessTree) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            for _ in range(_MAX_DATAGRAMS_PER_WAKEUP):
                received = self._receive()
                if received is None:
                    break
                datagram, sender = received
                if datagram and await self._is_believed(sender, processes):
                    self._handle(datagram)
            await trio.sleep(_WAKEUP_INTERVAL)

    def _receive(self) -> tuple[bytes, _Sender] | None:
        """Return a datagram, b"" for one to be ignored, and its sender; None if there is none."""
        size = socket.CMSG_SPACE(_CREDENTIALS.size)
        try:
            datagram, ancillary, flags, _ = self._sock.recvmsg(_MAX_DATAGRAM_SIZE, size)
        except (BlockingIOError, InterruptedError):
            return None
        sender = _Sender(0, -1)
        for level, kind, data in ancillary:
            is_credentials = (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS)
            if is_credentials and len(data) == _CREDENTIALS.size:
                pid, uid, _ = _CREDENTIALS.unpack(data)
                sender = _Sender(pid, uid)
        if flags & socket.MSG_TRUNC:
            text = "%s: ignored a notification of pid %d that is longer than %d bytes"
            self._warnings.log("long", text, self.name, sender.pid, _MAX_DATAGRAM_SIZE)
            return b"", sender
        return datagram, sender

    async def _is_believed(self, sender: _Sender, processes: ProcessTree) -> bool:
        if processes.is_led(sender.pid):
            return True
        now, verdict = trio.current_time(), self._verdict
        if verdict is None or verdict[0] != sender or now - verdict[2] > _VERDICT_TTL:
            is_believed = await self._look_up(sender, processes)
            verdict = self._verdict = sender, is_believed, now
        if not verdict[1]:
            text = "%s: ignored a notification of pid %d (uid %d), which is none of its processes"
            self._warnings.log("foreign", text, self.name, sender.pid, sender.uid)
        return verdict[1]

    async def _look_up(self, sender: _Sender, processes: ProcessTree) -> bool:
        def is_believed() -> bool:
            if processes.contains(sender.pid):
                return True
            return _has_exited(sender.pid) and sender.uid in self._uids

        try:
            return await trio.to_thread.run_sync(is_believed, abandon_on_cancel=True)
        except (OSError, RuntimeError):  # No thread can be started.
            return False

    def _handle(self, datagram: bytes) -> None:
        found = parse_notification(datagram)
        if found is None:
            self._warnings.log("garbage", "%s: ignored a malformed notification", self.name)
            return
        if found.status is not None:
            self.status = found.status
        self._handle_times(found)
        if found.is_ready:
            self.ready.set()
            self._extended_until = -math.inf
        if found.is_stopping and not self.stopping.is_set():
            self.stopping.set()
            self.on_stopping()
        if found.has_failed:
            self.on_failed()

    def _handle_times(self, found: Notification) -> None:
        now = trio.current_time()
        if found.extension is not None:
            self._extended_until = now + found.extension
            for scope, first in self._deadlines.items():
                scope.deadline = max(first, now + found.extension)
        if found.watchdog_interval is not None:
            self.watchdog_interval = found.watchdog_interval
        if found.is_alive or found.watchdog_interval is not None:
            self.is_watched, self.last_alive_at = True, now
            self._reported_alive.set()
            self._reported_alive = trio.Event()


def _has_exited(pid: int) -> bool:
    """Whether a process of our PID namespace has exited, reaped or not."""
    if pid <= 0:
        return False  # It is one of a namespace that we do not see.
    if not os.path.lexists("/proc/self"):
        return False
    stat = procfs.read_stat(pid)
    return stat is None or not stat.is_alive
