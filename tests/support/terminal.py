"""A real terminal, by tmux: what is on its screen, and keys that are pressed."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.mesh_processes import MeshProcess, wait_until
from tests.tools import find_debian_tool


class Terminal:
    def __init__(self, *command: str) -> None:
        self._command = command

    def _tmux(self, *arguments: str) -> str:
        return subprocess.run(
            [*self._command, *arguments], capture_output=True, text=True, check=True, timeout=60
        ).stdout

    @property
    def screen(self) -> str:
        return self._tmux("capture-pane", "-p")

    @property
    def screen_with_colours(self) -> str:
        """The screen with what makes its colours."""
        return self._tmux("capture-pane", "-p", "-e")

    def wait_for(self, *texts: str) -> str:
        """Wait until all of it is on the screen, which is given."""

        def found() -> str:
            screen = self.screen
            return screen if all(text in screen for text in texts) else ""

        try:
            return str(wait_until(found))
        except AssertionError:
            raise AssertionError(f"{texts} did not come up:\n{self.screen}") from None

    def press(self, *keys: str) -> None:
        """By tmux's names: `q`, `Left`, `C-c`."""
        self._tmux("send-keys", *keys)


@contextmanager
def run_in_terminal(mesh: MeshProcess, folder: Path, *arguments: str) -> Iterator[Terminal]:
    """Run a command of meshtrio in a terminal; its exit status is shown when it has ended."""
    command = [find_debian_tool("tmux"), "-u", "-S", str(folder / "tmux"), "-f", "/dev/null"]
    program = shlex.join([sys.executable, "-m", "meshtrio", *arguments])
    shown = Terminal(*command)
    subprocess.run(
        [
            *(*command, "new-session", "-d", "-x", "200", "-y", "50"),
            # Ctrl-C goes to the shell, too.
            *("sh", "-c", f'trap : INT; {program}; echo "status $?"; exec sleep 1000'),
        ],
        env={**mesh.environment, "TERM": "xterm-256color"},
        check=True,
        timeout=120,
    )
    try:
        yield shown
    finally:
        subprocess.run([*command, "kill-server"], check=False, timeout=60)
