"""The sockets of sd_notify(3) that the mesh binds in its runtime dir, one for each process run."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from meshtrio.config import PluginConfig
from meshtrio.runtime_dir import lock_file
from meshtrio.util import descriptors
from meshtrio.util.users import look_up_user


def notify_socket_path(runtime_dir: Path, plugin: PluginConfig, instance: int, slot: int) -> Path:
    """Return the path of the socket of an instance, or of its successor for `slot` 1.

    It is in the runtime dir whatever the plugin's user is: only the mesh makes files there.
    """
    return runtime_dir / f"{plugin.name}-{instance}{'.b' if slot else ''}.notify.sock"


@contextmanager
def bind_notify_socket(path: Path, plugin: PluginConfig) -> Iterator[socket.socket]:
    """Bind the socket for a block, and remove it afterwards; the plugin's user may write to it.

    Received datagrams have the credentials of their senders (SO_PASSCRED, unix(7)).

    Raises:
        OSError: It cannot be bound.
        KeyError: The plugin's user does not exist.
    """
    user = plugin.containment.user
    with contextlib.ExitStack() as stack:
        directory = descriptors.open_directory(path.parent)
        stack.callback(os.close, directory)
        lock_file.append_line(lock_file.LOCK_FILE_NAME, path.name, dir_fd=directory)
        descriptors.remove_socket(path.name, directory)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        stack.enter_context(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        sock.bind(str(path))
        stack.callback(descriptors.remove_socket, path.name, directory)
        os.chmod(path.name, 0o600, dir_fd=directory)
        if user is not None:
            os.chown(path.name, look_up_user(user).pw_uid, -1, dir_fd=directory)
        yield sock


@contextmanager
def adopt_notify_socket(path: Path, descriptor: int) -> Iterator[socket.socket]:
    """Have a socket for a block that this process has handed over to itself in an upgrade.

    Raises OSError if no descriptor is left.
    """
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(fileno=descriptor))
        directory = descriptors.open_directory(path.parent)
        stack.callback(os.close, directory)
        stack.callback(descriptors.remove_socket, path.name, directory)
        yield sock
