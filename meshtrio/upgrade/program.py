"""The program that a mesh executes in an upgrade: its command, its environment, and a trial run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial

import attrs
import trio

from meshtrio.supervisor.process.cleanup.process_marker import set_marker_limit
from meshtrio.supervisor.process.spawn.program import start_child
from meshtrio.upgrade.state import STATE_VARIABLE, SavedMesh, write_state
from meshtrio.util.errors import UsageError

CHECK_OPTION = "--check-upgrade"
CHECK_TIMEOUT = 30.0
"""Seconds that the new program may take to check that it can take over."""
_MAX_MESSAGE_LENGTH = 4000
_SOCKET_ACTIVATION = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
"""Variables for sockets that the first execution has been given; those are handed over."""


@attrs.frozen
class Program:
    """The command and the environment of this process, as it was started."""

    command: Sequence[str]
    env: Mapping[str, str] = attrs.field(repr=False)

    @classmethod
    def of_this_process(cls) -> Program:
        """Return those of this process. Must be called before it changes its environment."""
        env = {name: value for name, value in os.environ.items() if name != STATE_VARIABLE}
        # By its absolute path, which finds the same virtual environment.
        return cls((sys.executable, *sys.orig_argv[1:]), env)

    async def check(self, saved: SavedMesh, marker_limit: int) -> None:
        """Run the new program as another process, which checks that it can take over.

        Args:
            saved: The state as it is now.
            marker_limit: The mark of the process; see `process_marker`.

        Raises:
            UsageError: It cannot take over; the text says why.
        """
        with ExitStack() as stack:
            state = write_state(saved)
            stack.callback(os.close, state)
            output = os.memfd_create("meshtrio-check", os.MFD_CLOEXEC)
            stack.callback(os.close, output)
            try:
                child = await start_child(
                    [*self.command, CHECK_OPTION],
                    partial(set_marker_limit, limit=marker_limit),
                    env={**self.env, STATE_VARIABLE: str(state)},
                    pass_fds=(state,),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                )
            except (OSError, RuntimeError) as exc:
                raise UsageError(f"the new program cannot be run: {exc}") from None
            try:
                with trio.move_on_after(CHECK_TIMEOUT):
                    await child.wait_for_exit()
                    await child.reap()
            finally:
                child.kill()
                child.reap_later()
            if child.returncode == 0:
                return
            message = os.pread(output, _MAX_MESSAGE_LENGTH, 0).decode(errors="replace").strip()
        if not child.has_exited:
            raise UsageError(f"the new program has not taken a look within {CHECK_TIMEOUT:g} s")
        status = f"it exited with status {child.returncode}"
        raise UsageError(f"the new program cannot take over: {message or status}")

    def execute(self, saved: SavedMesh) -> None:
        """Execute the new program in this process; it does not return.

        Raises:
            OSError: That failed; nothing has changed.
        """
        state = write_state(saved)
        inherited = {state, *saved.descriptors()}
        try:
            for descriptor in inherited:
                os.set_inheritable(descriptor, True)
            env = {name: self.env[name] for name in self.env if name not in _SOCKET_ACTIVATION}
            os.execve(self.command[0], list(self.command), {**env, STATE_VARIABLE: str(state)})  # noqa: S606
        finally:
            for descriptor in inherited:
                os.set_inheritable(descriptor, False)
            os.close(state)
