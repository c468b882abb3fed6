"""Stops a plugin's process when the mesh that has started it exits. Runs in the plugin.

If a mesh and its warden are both killed, no process is left that stops the plugins. So each plugin
inherits a pidfd of the mesh's process, which becomes readable when the mesh exits. Copies of it in
other processes keep nothing open.
"""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import select
import signal
import threading
import time

import trio

from meshtrio import contract
from meshtrio.supervisor.process.cleanup import process_marker
from meshtrio.util import standard_streams
from meshtrio.util.descriptors import closing_descriptor

_log = logging.getLogger("meshtrio.plugin")

_DEFAULT_STOP_TIMEOUT = 5.0
_CHECK_INTERVAL = 0.2


async def wait_for_mesh_exit() -> bool:
    """Wait until the mesh that has started this process has exited, and return True.

    Returns False at once if no mesh has started this process, or if a program in between, such as a
    wrapper, has closed the descriptor.
    """
    pidfd = _open_mesh_pidfd()
    if pidfd is None:
        return False
    with closing_descriptor(pidfd):
        await trio.lowlevel.wait_readable(pidfd)
    return True


async def stop_on_mesh_exit() -> None:
    """Wait until the mesh has exited, then stop this process as the mesh would have stopped it.

    SIGTERM is sent to its process group, and after PLUGIN_STOP_TIMEOUT seconds SIGKILL to all that
    is left of its process run. Returns at once if no mesh has started this process.

    Cancellation: Ends the wait. A stop that has begun continues in a thread of its own.
    """
    if not await wait_for_mesh_exit():
        return
    for stream in (1, 2):
        _discard_if_broken(stream)
    _log.warning("the mesh exited without stopping this process; stopping now")
    # Not a daemon thread: the process stays until all that it has started has exited.
    threading.Thread(target=_stop_run, name="stop-with-mesh").start()


def _open_mesh_pidfd() -> int | None:
    """Duplicate the pidfd of the mesh for one waiter; None if there is none.

    A child of a plugin may have inherited the variable without the descriptor, whose number is then
    used for something else. So only a pidfd is accepted, and not that of an own child. The original
    stays open and inheritable, since a program may execute itself again.
    """
    text = os.environ.get(contract.MESH_PIDFD, "")
    if not text.isdecimal():
        return None
    inherited = int(text)
    try:
        if "pidfd" not in os.readlink(f"/proc/self/fd/{inherited}"):
            return None
        os.waitid(os.P_PIDFD, inherited, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:  # It is no child.
        with contextlib.suppress(OSError):
            return os.dup(inherited)
    except OSError:
        pass
    return None


def _discard_if_broken(stream: int) -> None:
    """Discard what is written to a pipe that the mesh has read, so that printing cannot fail."""
    poll = select.poll()
    poll.register(stream, 0)
    if any(event & select.POLLERR for _, event in poll.poll(0)):
        with contextlib.suppress(OSError):
            standard_streams.redirect_to_null(stream)


def _stop_run() -> None:
    """Stop this process and what it has started. Blocks; runs in a thread of its own."""
    timeout = _DEFAULT_STOP_TIMEOUT
    with contextlib.suppress(KeyError, ValueError):
        timeout = float(os.environ[contract.PLUGIN_STOP_TIMEOUT])
    end = time.monotonic() + timeout
    _signal_group(signal.SIGTERM)
    marker = _make_run_marker()
    while time.monotonic() < end:
        time.sleep(_CHECK_INTERVAL)
        if not threading.main_thread().is_alive() and not _has_other_processes(marker):
            return
    with contextlib.suppress(OSError):
        process_marker.kill_marked_processes(marker)
    _signal_group(signal.SIGKILL)


def _signal_group(number: int) -> None:
    """Signal the process group that the mesh has made, or this process if it has left it."""
    if os.getpgrp() == os.getsid(0):
        os.killpg(0, number)
    else:
        os.kill(os.getpid(), number)


def _make_run_marker() -> process_marker.ProcessMarker:
    """Make the mark that this process and all that it has started carry."""
    variable = f"{contract.MESH_LAUNCH_ID}={os.environ.get(contract.MESH_LAUNCH_ID, '')}"
    limit = resource.getrlimit(resource.RLIMIT_RSS)[0]
    limits = [limit] if process_marker.is_marker_limit(limit) else []
    return process_marker.ProcessMarker(variable, {os.getuid(), os.geteuid()}, limits)


def _has_other_processes(marker: process_marker.ProcessMarker) -> bool:
    try:
        return any(marker.find_processes())
    except OSError:
        return False
