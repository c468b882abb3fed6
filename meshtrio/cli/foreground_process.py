"""A command that has the terminal, in a process group of its own, and ends with this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pwd
import shutil
import signal
import subprocess
import termios
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import trio

from meshtrio.util.errors import UsageError

_PR_SET_PDEATHSIG = 1
_TERMINAL = 0
"""The descriptor of the terminal: stdin."""
_TERMINAL_STOPS = frozenset({signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU})


@attrs.frozen(kw_only=True)
class ProcessSettings:
    """How a command is run."""

    command: Sequence[str]
    environment: Mapping[str, str]
    directory: str
    """The working directory."""
    user_id: int
    """The user that it runs as, which only root can change."""
    group_id: int


class ForegroundProcess:
    """A command that runs in the terminal of this process, if there is one.

    Its process group is the foreground one, so that Ctrl-C and Ctrl-\\ are sent to it and not to
    this process. It is resumed if Ctrl-Z stops it: the mesh would lose this process meanwhile.
    """

    def __init__(self, settings: ProcessSettings) -> None:
        """Start the command.

        Must be called in the main thread, with whose end the kernel kills the command.

        Raises:
            OSError: It cannot be executed, or the directory cannot be used.
            UsageError: It is to run as another user, and this process is not root.
        """
        self._modes = _get_modes()
        self._process = _start(settings, takes_terminal=self._modes is not None)

    @property
    def status(self) -> int:
        """The exit status as of a shell; once it has ended."""
        code = self._process.returncode
        assert code is not None
        return code if code >= 0 else 128 - code

    def has_ended(self) -> bool:
        """Resume it if the terminal has stopped it; return whether it has ended.

        To be called after each SIGCHLD. What is left of its process group is killed at its end.
        """
        if self._process.returncode is not None:
            return True
        pid = self._process.pid
        # It stays a zombie until its group has been killed, so that its pid is not reused.
        options = os.WEXITED | os.WSTOPPED | os.WNOHANG
        found = os.waitid(os.P_PID, pid, options | os.WNOWAIT)
        if found is not None and found.si_code == os.CLD_STOPPED:
            # Without the terminal, reading from it would stop the command again at once.
            if found.si_status in _TERMINAL_STOPS and self._modes is not None:
                self._give_terminal(pid)
                self.send_signal(signal.SIGCONT)
            found = None
        if found is None:
            return False
        self.send_signal(signal.SIGKILL)
        self._process.wait()
        self._give_terminal(os.getpgrp())
        return True

    def send_signal(self, number: int) -> None:
        """Signal its process group, unless it has ended."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    async def terminate(self, stop_timeout: float) -> None:
        """Send SIGTERM to its group, and after `stop_timeout` seconds SIGKILL. Returns then."""
        self.send_signal(signal.SIGTERM)
        self.send_signal(signal.SIGCONT)  # It may be stopped.
        await trio.sleep(stop_timeout)
        self.send_signal(signal.SIGKILL)

    def kill(self) -> None:
        """Kill its group, and wait until the command has ended."""
        if self._process.returncode is None:
            self.send_signal(signal.SIGKILL)
            self._process.wait()
            self._give_terminal(os.getpgrp())

    def _give_terminal(self, group: int) -> None:
        """Make a group the foreground one of the terminal, in the modes that it had before."""
        if self._modes is not None:
            with contextlib.suppress(OSError, termios.error), _ttou_blocked():  # It may be closed.
                os.tcsetpgrp(_TERMINAL, group)
                if group == os.getpgrp():
                    termios.tcsetattr(_TERMINAL, termios.TCSADRAIN, self._modes)


def _get_modes() -> list[Any] | None:
    """Return the modes of the terminal if this process is in its foreground, else None."""
    try:
        if os.tcgetpgrp(_TERMINAL) == os.getpgrp():
            return termios.tcgetattr(_TERMINAL)
    except (OSError, termios.error):
        pass
    return None


@contextmanager
def _ttou_blocked() -> Iterator[None]:
    """Allow tcsetpgrp(3) of a process in the background."""
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _start(settings: ProcessSettings, *, takes_terminal: bool) -> subprocess.Popen[bytes]:
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def prepare() -> None:
        # The mesh kills what the command has started; it may not signal a command of root's.
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
        if takes_terminal:
            with _ttou_blocked():
                os.tcsetpgrp(_TERMINAL, os.getpid())

    environment, program = settings.environment, settings.command[0]
    path = shutil.which(program, path=environment.get("PATH")) or shutil.which(program)
    return subprocess.Popen(
        settings.command,
        executable=path if "/" not in program else None,
        cwd=settings.directory,
        env=environment,
        process_group=0,
        preexec_fn=prepare,
        **_make_user_options(settings.user_id, settings.group_id),
    )


def _make_user_options(user_id: int, group_id: int) -> dict[str, Any]:
    """Make the options of Popen by which the command runs as a user, if this process is another."""
    if user_id == os.geteuid():
        return {}
    if os.geteuid() != 0:
        raise UsageError(f"the plugin runs as uid {user_id}: only that user and root can attach")
    try:
        groups = os.getgrouplist(pwd.getpwuid(user_id).pw_name, group_id)
    except KeyError:
        groups = []
    return {"user": user_id, "group": group_id, "extra_groups": groups}
