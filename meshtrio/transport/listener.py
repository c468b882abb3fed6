"""Listening sockets on Unix paths and TCP ports."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from meshtrio.contract import MAX_SOCKET_PATH_LENGTH
from meshtrio.util.address import Address
from meshtrio.util.errors import UsageError

_BACKLOG = 1024


class PassedListener(socket.socket):
    """A listening socket that another process holds as well, and passes to the next of us.

    It is closed without a shutdown, which would be one for the other process, too, and connections
    in its backlog are left to the next process that accepts there.
    """


def is_listening(path: Path | str) -> bool:
    """Return whether a process listens on a Unix socket, or holds it for another.

    False only if that is certain: this process may not be allowed to connect.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(os.fspath(path))
        except OSError as exc:
            return exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ECONNREFUSED)
    return True


class ListenerTable:
    """The listening sockets of this process, by address.

    A program that executes itself again inherits them: it takes those that it still has, and closes
    the others. So no connection is refused.
    """

    def __init__(self) -> None:
        self.open: dict[str, socket.socket] = {}
        """Those that are in use."""
        self._inherited: dict[str, socket.socket] = {}

    @contextmanager
    def opened(self, address: str, sock: socket.socket) -> Iterator[None]:
        """List a socket during the block."""
        self.open[address] = sock
        try:
            yield
        finally:
            if self.open.get(address) is sock:
                del self.open[address]

    def inherit(self, descriptors: Mapping[str, int]) -> None:
        """Add sockets that this program was executed with, by address."""
        for address, descriptor in descriptors.items():
            self._inherited[address] = socket.socket(fileno=descriptor)

    def take_inherited(self, address: str) -> socket.socket | None:
        """Return the inherited socket of an address, which is the caller's then."""
        return self._inherited.pop(address, None)

    def close_inherited(self) -> None:
        """Close the inherited sockets that were not taken."""
        while self._inherited:
            self._inherited.popitem()[1].close()


LISTENERS = ListenerTable()


@contextmanager
def unix_listener(path: Path | str) -> Iterator[socket.socket]:
    """Listen on a Unix socket for the block, and remove its path afterwards.

    A stale socket on the path is replaced.

    Args:
        path: The path, at most 107 bytes long.

    Yields:
        The non-blocking listening socket.

    Raises:
        UsageError: The path is too long, is in use, is not a socket, or cannot be bound.
    """
    path = os.fspath(path)
    length = len(os.fsencode(path))
    if length > MAX_SOCKET_PATH_LENGTH:
        text = f"{path}: a socket's path may have {MAX_SOCKET_PATH_LENGTH} bytes"
        raise UsageError(f"{text}, this has {length}")
    with _open_unix_socket(path) as sock, _owned_path(path), LISTENERS.opened(f"unix:{path}", sock):
        sock.setblocking(False)
        sock.listen(_BACKLOG)
        yield sock


@contextmanager
def _owned_path(path: str) -> Iterator[None]:
    """Remove the path of a socket after the block, unless it is another's then."""
    status, pid = os.lstat(path), os.getpid()
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):
            # A forked child must not remove its parent's path.
            if os.getpid() == pid and os.path.samestat(os.lstat(path), status):
                os.unlink(path)


@contextmanager
def adopted_listener(address: str) -> Iterator[socket.socket | None]:
    """Have the listening socket that was handed over in an upgrade for the block, as it is.

    Args:
        address: `unix:path`, or the `key` of a TCP socket.

    Yields:
        The socket, None if there is none or its path is gone.
    """
    with ExitStack() as stack:
        sock = LISTENERS.take_inherited(address)
        if sock is not None:
            stack.enter_context(sock)
            path = address.removeprefix("unix:") if sock.family == socket.AF_UNIX else None
            if path is not None and not os.path.lexists(path):
                sock = None
            else:
                if path is not None:
                    stack.enter_context(_owned_path(path))
                stack.enter_context(LISTENERS.opened(address, sock))
        yield sock


def _open_unix_socket(path: str) -> socket.socket:
    """Return the inherited socket of a path, or bind one. Raises UsageError."""
    inherited = LISTENERS.take_inherited(f"unix:{path}")
    if inherited is not None:
        if os.path.lexists(path):
            return inherited
        inherited.close()
    _remove_stale_socket(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The file gets this mode whatever the umask is.
        os.fchmod(sock.fileno(), 0o700)
        sock.bind(path)
    except OSError as exc:
        sock.close()
        raise UsageError(f"{path}: cannot be bound: {exc.strerror}") from None
    return sock


def _remove_stale_socket(path: str) -> None:
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise UsageError(f"{path}: already exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        try:
            sock.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError as exc:
            if exc.errno != errno.EAGAIN:
                raise UsageError(f"{path}: cannot be bound: {exc.strerror}") from None
    raise UsageError(f"{path}: another process listens there")


@contextmanager
def tcp_listener(address: str, *, key: str | None = None) -> Iterator[socket.socket]:
    """Listen on a TCP port for the block.

    Args:
        address: `tcp:host:port`.
        key: What an upgrade finds the socket by; the address if it is None.

    Yields:
        The non-blocking listening socket.

    Raises:
        UsageError: The address is malformed or cannot be bound.
    """
    key = key or address
    inherited = LISTENERS.take_inherited(key)
    if inherited is not None:
        with inherited, LISTENERS.opened(key, inherited):
            inherited.setblocking(False)
            yield inherited
        return
    try:
        parsed = Address.parse(address)
        family = socket.AF_INET6 if ":" in parsed.host else socket.AF_INET
        sock = socket.create_server((parsed.host, parsed.port), family=family, backlog=_BACKLOG)
    except OSError as exc:
        # The standard library's message repeats the address.
        reason = os.strerror(exc.errno) if exc.errno and exc.errno > 0 else exc.strerror or str(exc)
        raise UsageError(f"{address}: cannot be bound: {reason}") from None
    except ValueError as exc:
        raise UsageError(f"{address}: cannot be bound: {exc}") from None
    with sock, LISTENERS.opened(key, sock):
        sock.setblocking(False)
        yield sock
