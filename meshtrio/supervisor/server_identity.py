"""Verifies that the server at a plugin's address is the plugin, and not another program.

The mesh registers an endpoint only if the connection of its own health check was accepted by the
plugin:

- On a Unix socket the kernel reports which process listens there, and its user (SO_PEERCRED). The
  user has to be the one in the plugin's `containment`, or else the mesh's own or root; the process
  has to be one of the plugin's.
- On TCP every socket that listens at the address (/proc/net/tcp) has to be held by a process of the
  plugin, in the mesh's network namespace or in that of the plugin. If the mesh may not read the
  descriptors of one of those processes, since it has changed its user, the socket has to belong to
  one of the users above. Before a process is started, no server may answer at its address.

A socket that the mesh holds for a plugin is identified by its file, or by its inode on TCP. By
SO_PEERCRED it is the mesh's, until a process calls listen(2) on it. While two processes have it,
one of which replaces the other, the connection has to be accepted by a process of the plugin's run;
see `acceptance`.

Each health check compares the listener with the one that was verified before, which does not read
/proc; the file of a Unix socket is in addition checked once a second.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import attrs
import trio

from meshtrio.supervisor.acceptance import AcceptanceCheck
from meshtrio.supervisor.held_socket import HeldSocket
from meshtrio.supervisor.process.cleanup.process_tree import ProcessTree
from meshtrio.supervisor.process.proc import listening_sockets
from meshtrio.transport.dial import WrongServerError, connect_socket, dial
from meshtrio.transport.peer import peer_of
from meshtrio.transport.transport import Transport
from meshtrio.util.address import Address
from meshtrio.util.shared_rng import RNG
from meshtrio.util.tls_config import ClientTlsConfig

_CONNECT_TIMEOUT = 1.0
"""Seconds for which a connection to an address is tried before a process starts there."""
_MIN_ACCEPT_PAUSE, _MAX_ACCEPT_PAUSE = 0.005, 0.05
"""Maximum seconds until the next connection, after one that another process has accepted: at first,
and after several."""
_ACCEPT_PAUSE_FACTOR = 4
"""Minimum of that pause, as a multiple of the time that it took to find the process."""
_REJECTION_TTL = 1.0
"""Seconds for which the rejection of a listener is cached."""
_run_in_thread = partial(trio.to_thread.run_sync, abandon_on_cancel=True)
"""Calls a function in a worker thread. Raises RuntimeError if no thread can be started."""

FileId = tuple[int, int]
"""Device and inode."""


@attrs.define(eq=False)
class ServerVerifier:
    """Connects to the server of one process of a plugin and verifies that it is the plugin's."""

    _address: str
    """Where the plugin serves."""
    _owner: ProcessTree
    """The processes of the plugin."""
    _uids: frozenset[int] | None
    """The users of which the server of a Unix socket has to have one; None for any."""
    _verify_process: bool = attrs.field(kw_only=True)
    """Whether the server has to be one of the processes."""
    _tls: ClientTlsConfig | None = attrs.field(default=None, kw_only=True)
    _held_socket: HeldSocket | None = attrs.field(default=None, kw_only=True)
    """The listening socket that the processes have inherited, if they have."""
    uid: int | None = attrs.field(default=None, init=False)
    """The user that the server was last found to run as; None on TCP and before that."""
    _path: str = attrs.field(init=False)
    """The path of its Unix socket; "" on TCP."""
    _socket_file_id: FileId | None = attrs.field(default=None, init=False)
    """The file of the socket when it was last connected to."""
    _verified: object = attrs.field(default=None, init=False)
    """The listener that was last verified: a pid, or inodes of sockets."""
    _last_rejection: tuple[object, str, float] = attrs.field(default=(None, "", 0.0), init=False)
    """The listener that was last rejected, why, and when."""

    _acceptance: AcceptanceCheck = attrs.field(init=False)
    """Finds out who accepts connections to a held socket."""

    def __attrs_post_init__(self) -> None:
        self._path = Address.parse(self._address).path
        self._acceptance = AcceptanceCheck(self._owner)

    @property
    def is_socket_replaced(self) -> bool:
        """Whether the socket's file is another than when it was last connected to."""
        if not self._path or self._socket_file_id is None:
            return False
        found = _get_file_id(self._path)
        return found is not None and found != self._socket_file_id

    async def connect(self) -> Transport:
        """Connect to the server, as `transport.dial.dial` does; WrongServerError if it is not.

        Raises UnknownAcceptorError if another process may have accepted the connection, which is
        not known. Waits until the plugin's process accepts one if it has inherited its socket.
        """
        held, pause = self._held_socket, _MIN_ACCEPT_PAUSE
        while True:
            transport = await self._connect()
            if held is None:
                return transport
            try:
                if await self._acceptance.wait_accepted(transport.sock, held):
                    return transport
            except BaseException:
                transport.close()
                raise
            transport.close()
            # The pause is random, since two servers in accept(2) take turns, as the checks of both
            # may do. It is short, since a server that is busy anyway is nearly always faster than
            # one that has to be woken up.
            pause = min(1.1 * pause, _MAX_ACCEPT_PAUSE)
            min_pause = _ACCEPT_PAUSE_FACTOR * self._acceptance.lookup_time
            await trio.sleep(max(pause * RNG.random(), min_pause))

    async def _connect(self) -> Transport:
        # Before connecting, so that a file that replaces the socket afterwards is noticed.
        self._socket_file_id = _get_file_id(self._path) if self._path else None
        transport = await dial(self._address, self._tls, self._uids)
        try:
            await self._verify(transport.sock)
        except BaseException:
            transport.close()
            raise
        return transport

    async def _verify(self, sock: socket.socket) -> None:
        held = self._held_socket
        if self._path:
            peer = peer_of(sock)
            assert peer.pid is not None
            is_held = held is not None and held.is_path_own
            if self._verify_process and not is_held:
                await self._verify_listener(peer.pid, partial(self._check_process, peer.pid))
            if self._uids is not None:
                self.uid = peer.uid
        elif self._verify_process:
            host, port = sock.getpeername()[:2]
            if listening_sockets.is_self_connected(sock):
                raise ConnectionRefusedError(errno.ECONNREFUSED, "nothing listens there")
            found = await _run_in_thread(self._find_listeners, host, port)
            inodes = frozenset(each.inode for each in found)
            if held is None or inodes != {held.inode}:
                await self._verify_listener(inodes, partial(self._check_sockets, found))

    async def _verify_listener(self, listener: object, check: Callable[[], str]) -> None:
        """Accept or reject a listener, by `check` unless it is known. Raises WrongServerError."""
        if listener == self._verified:
            return
        if isinstance(listener, int) and self._owner.is_led(listener):
            self._verified = listener
            return
        refused, reason, at = self._last_rejection
        now = trio.current_time()
        if refused != listener or now - at > _REJECTION_TTL:
            reason = await _run_in_thread(check)
            self._last_rejection = (listener, reason, now)
        if reason:
            raise WrongServerError(reason)
        self._verified = listener

    # -- in a worker thread ------------------------------------------------------------------

    def _check_process(self, pid: int) -> str:
        """Find why a process that listens is not the plugin's; "" if it is."""
        if self._owner.contains(pid):
            return ""
        if not pid:
            return "its socket is served by a process of another PID namespace"
        other = _describe_process(pid)
        return f"its socket is served by {other}, which is not one of its processes"

    def _find_listeners(self, host: str, port: int) -> list[listening_sockets.TcpListener]:
        """Find what listens at an address, in our network namespace or else in the plugin's."""
        found = listening_sockets.find_listeners(listening_sockets.list_tcp_listeners(), host, port)
        leader = self._owner.leader_pid
        if not found and _network_namespace(leader) not in (None, _network_namespace("self")):
            found = listening_sockets.find_listeners(
                listening_sockets.list_tcp_listeners(leader), host, port
            )
        return found

    def _check_sockets(self, listeners: list[listening_sockets.TcpListener]) -> str:
        """Find why sockets that listen are not the plugin's; "" if they are."""
        if not listeners:
            return "no socket of this machine listens on its port, but something answers there"
        held = self._owner.holds_sockets(each.inode for each in listeners)
        uids = self._uids or frozenset()
        if held or (held is None and all(each.uid in uids for each in listeners)):
            return ""
        return f"another program (uid {listeners[0].uid}) listens on its port"


async def is_address_in_use(
    address: str, connect: Callable[[str], Awaitable[socket.socket]] = connect_socket
) -> bool:
    """Whether a server accepts connections at a TCP address."""
    with trio.move_on_after(_CONNECT_TIMEOUT), suppress(OSError, ValueError):
        with await connect(address) as sock, suppress(OSError):
            return not listening_sockets.is_self_connected(sock)
        return True  # The server has closed the connection already.
    return False


def _get_file_id(path: str) -> FileId | None:
    with suppress(OSError):
        status = os.lstat(path)
        return status.st_dev, status.st_ino
    return None


def _network_namespace(pid: int | str) -> str | None:
    """Return the network namespace of a process, None if it cannot be read."""
    with suppress(OSError):
        return os.readlink(f"/proc/{pid}/ns/net")
    return None


def _describe_process(pid: int) -> str:
    """Describe a process by its pid and, if it can be read, its program."""
    with suppress(OSError):
        return f"pid {pid} ({ascii(Path(os.readlink(f'/proc/{pid}/exe')).name)[1:-1]})"
    return f"pid {pid}"
