"""Listening sockets that the mesh holds for instances: `listen_fds` of a plugin.

The mesh binds the socket before the first process of an instance and passes it to each of them, so
that connections wait in its backlog while there is none. It never accepts any.

A socket is bound again, for the next process, if it has become unusable: its file was removed or
replaced, or a process has shut it down, which affects all that share it.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import trio

from meshtrio.config import PluginConfig
from meshtrio.runtime_dir import directory as runtime_dir
from meshtrio.supervisor.process.cleanup.process_tree import ProcessTree
from meshtrio.transport.listener import adopted_listener, tcp_listener, unix_listener
from meshtrio.util.address import Address
from meshtrio.util.errors import UsageError


class HeldSocket:
    """One listening socket; it is bound by `open`, and from then on held until `close`."""

    def __init__(self, address: str) -> None:
        self.address = address
        """Where it listens, or is to listen."""
        self.path = Address.parse(address).path
        """The path of a Unix socket, otherwise ""."""
        self._listener: socket.socket | None = None
        self._stack = ExitStack()
        self._file: os.stat_result | None = None
        """The file of a Unix socket, when it was bound."""
        self._run_count = 0
        self.trees: set[ProcessTree] = set()
        """The processes of the runs that have it."""

    @property
    def is_shared(self) -> bool:
        """Whether several process runs have it, so that any of them may accept a connection."""
        return self._run_count > 1

    @property
    def is_used(self) -> bool:
        """Whether a process run has it."""
        return self._run_count > 0

    @property
    def fileno(self) -> int:
        """The number of its descriptor. It is open."""
        assert self._listener is not None
        return self._listener.fileno()

    @property
    def inode(self) -> int:
        """The inode of the socket, as /proc/net has it. It is open."""
        return os.fstat(self.fileno).st_ino

    @contextmanager
    def used_by_run(self) -> Iterator[None]:
        """Count a process run that has the socket during the block."""
        self._run_count += 1
        try:
            yield
        finally:
            self._run_count -= 1

    async def open(self, directory: Path, config: PluginConfig) -> None:
        """Bind the socket, unless it is bound already and can be used.

        Args:
            directory: The runtime directory of the mesh.
            config: The plugin that it is for.

        Raises:
            OSError: It cannot be bound.
            KeyError: The user or group of the plugin does not exist.
            RuntimeError: No thread can be started.
        """
        if self._is_usable():
            return
        self.close()
        try:
            if self.path:
                runtime_dir.prepare_plugin_socket(directory, config, Path(self.path))
                listener = self._stack.enter_context(unix_listener(self.path))
                self._file = os.lstat(self.path)
            else:
                address = await _look_up(Address.parse(self.address))
                listener = self._stack.enter_context(tcp_listener(str(address), key=self.address))
        except UsageError as exc:
            raise OSError(str(exc)) from None
        # As systemd passes sockets. Programs that poll change it; later on the mesh must not, since
        # all processes share this flag.
        listener.setblocking(True)
        self._listener = listener

    async def wait_connection(self) -> None:
        """Wait until a connection waits to be accepted. It is open, and no process accepts them.

        Raises:
            trio.ClosedResourceError: It was closed meanwhile.
        """
        assert self._listener is not None
        await trio.lowlevel.wait_readable(self._listener)

    def adopt(self) -> None:
        """Hold the socket that was handed over in an upgrade, if there is one."""
        self._listener = self._stack.enter_context(adopted_listener(self.address))
        if self._listener is not None and self.path:
            self._file = os.lstat(self.path)

    def close(self) -> None:
        """Close the mesh's descriptor, and remove the path if that is possible."""
        if self._listener is not None:
            trio.lowlevel.notify_closing(self._listener)
        self._listener = None
        with suppress(OSError):  # Its directory may have been replaced.
            self._stack.close()

    def _is_usable(self) -> bool:
        if self._listener is None:
            return False
        if self.path:
            return self.is_path_own and not _is_shut_down(self._listener)
        return bool(self._listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))

    @property
    def is_path_own(self) -> bool:
        """Whether the file at the path of a Unix socket is the one that was bound."""
        try:
            return self._file is not None and os.path.samestat(os.lstat(self.path), self._file)
        except OSError:
            return False


class HeldSockets:
    """The sockets of one instance: one, except after a change of its address."""

    def __init__(self) -> None:
        self._sockets: list[HeldSocket] = []

    def get(self, address: str) -> HeldSocket:
        """Return the socket of an address, which becomes that of the instance."""
        for held in self._sockets:
            if held.address == address:
                self._sockets.remove(held)
                break
        else:
            held = HeldSocket(address)
        self._sockets.append(held)
        return held

    def close_unused(self, *, is_down: bool) -> None:
        """Close those that no process run has, except for the instance's own.

        `is_down`: the instance is to have no process, so that nothing would accept a connection.
        """
        kept: Collection[HeldSocket] = () if is_down else self._sockets[-1:]
        for held in [each for each in self._sockets if each not in kept and not each.is_used]:
            self._sockets.remove(held)
            held.close()


async def _look_up(address: Address) -> Address:
    """Look up the host name of an address, if it has one. Raises OSError and RuntimeError."""
    if ":" in address.host:
        return address
    found = await trio.socket.getaddrinfo(
        address.host, address.port, family=socket.AF_INET, type=socket.SOCK_STREAM
    )
    return address.replace(host=str(found[0][4][0]))


def _is_shut_down(listener: socket.socket) -> bool:
    """Whether a Unix socket was shut down for reading, upon which it refuses connections."""
    poll = select.poll()
    poll.register(listener, select.POLLRDHUP)
    return any(events & select.POLLRDHUP for _, events in poll.poll(0))
