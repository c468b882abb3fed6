"""Doing what a page says, in an empty folder."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import textwrap
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import trio

from meshtrio.config import load
from meshtrio.runtime_dir import directory
from tests import ROOT
from tests.docs import code_contexts
from tests.docs.blocks import Block, matches, parse_blocks

_KEPT_VARIABLES = ("PATH", "PYTHONPATH", "HOME", "LANG")
_BLOCK_TIMEOUT = 600
_EXIT_TIMEOUT = 60
_LOG_TIMEOUT = 120
_CALL_TIMEOUT = 120
"""Seconds for calls without a --timeout of the page's own. The default of `meshtrio call`, 10 s, is
too short for the imports of two processes on a machine that is busy with other tests."""
_PRELUDE = f"""
set -e
meshtrio() {{
    if [ "$1" = call ]; then
        set -- call --timeout {_CALL_TIMEOUT} "${{@:2}}"
    fi
    command meshtrio "$@"
}}
test ! -f "$STATE" || . "$STATE"
cd "$(cat "$WHERE")"
"""
_EPILOGUE = """
export -p > "$STATE"
pwd > "$WHERE"
"""


class PageRunner:
    """Follows a page to the letter, as somebody would with one shell, and more for what runs on."""

    def __init__(self, page: Path, folder: Path, stack: ExitStack) -> None:
        self._log: Path | None = None
        self._numbers = itertools.count()
        self._page = page
        self._folder = folder / "w"
        self._stack = stack
        self._output: str | None = ""
        """What the last command wrote; None if it is one that the page's own test runs."""
        self._folder.mkdir()
        state, where, run = folder / "state", folder / "where", folder / "run"
        self._runtime_dir = run
        run.mkdir(mode=0o700)
        where.write_text(f"{self._folder}\n")
        self._where = where
        kept = {key: os.environ[key] for key in _KEPT_VARIABLES if key in os.environ}
        self._environment = kept | {
            "STATE": str(state),
            "WHERE": str(where),
            "XDG_RUNTIME_DIR": str(run),
            "MESHTRIO": str(ROOT),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "COLUMNS": "200",
        }
        for key in os.environ:
            if key.startswith(("PIP_", "GO", "http", "HTTP", "no_proxy", "NO_PROXY", "SSL_")):
                self._environment.setdefault(key, os.environ[key])

    def run(self) -> None:
        for block in parse_blocks(self._page):
            doing: Callable[[Block], None] = getattr(self, f"_do_{block.language}", self._do_other)
            try:
                doing(block)
            except Exception as exc:
                where = f"{self._page.relative_to(ROOT)}:{block.line}"
                raise AssertionError(f"{where}: {exc}\n{block.text}") from exc

    @property
    def _current_directory(self) -> Path:
        return Path(self._where.read_text().strip())

    def _do_sh(self, block: Block) -> None:
        if block.attributes == "background":
            self._start(block.text)
        elif block.attributes.startswith("test="):
            self._output = None
        elif block.attributes != "ci":
            self._finish(block)

    def _finish(self, block: Block) -> None:
        done = self._bash(block.text)
        self._output = done.stdout
        assert (done.returncode != 0) is (block.attributes == "fails"), done.stdout

    def _bash(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", _PRELUDE + text + _EPILOGUE],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_BLOCK_TIMEOUT,
            check=False,
        )

    def _start(self, text: str) -> None:
        self._log = self._folder.parent / f"log-{next(self._numbers)}"
        log = self._stack.enter_context(self._log.open("a+"))
        process = self._stack.enter_context(
            subprocess.Popen(
                ["bash", "-c", _PRELUDE + text.strip() + _EPILOGUE],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        )
        self._stack.callback(self._end, process, self._log)

    def _end(self, process: subprocess.Popen[bytes], log: Path) -> None:
        """End a background command by SIGINT, as Ctrl-C in its terminal does."""
        try:
            assert process.poll() is None, log.read_text()
            os.killpg(process.pid, signal.SIGINT)
            process.wait(_EXIT_TIMEOUT)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

    def _do_text(self, block: Block) -> None:
        if block.attributes == "log":
            self._expect_log(block.text)
            return
        if self._output is None:
            return
        output = self._as_on_pages(self._output)
        assert matches(block.text, output, like=block.attributes == "like"), f"it wrote:\n{output}"

    def _expect_log(self, text: str) -> None:
        assert self._log is not None, "no command runs in the background"
        number = len(text.strip().splitlines())
        deadline = time.monotonic() + _LOG_TIMEOUT
        while True:
            logged = self._as_on_pages(self._log.read_text())
            if matches(text, "\n".join(logged.splitlines()[:number]), like=True):
                return
            assert time.monotonic() < deadline, f"it logged:\n{logged}"
            time.sleep(0.1)

    def _as_on_pages(self, output: str) -> str:
        """Replace the runtime dir by that of most readers."""
        return output.replace(str(self._runtime_dir), "/run/user/1000")

    def _do_toml(self, block: Block) -> None:
        if block.attributes != "config":
            self._do_other(block)
            return
        for name in ("ca.pem", "client.pem", "client.key", "server.pem", "server.key"):
            (self._folder / name).touch()
        path = self._folder / "checked.toml"
        path.write_text(block.text)
        directory.validate(load(path))

    def _do_python(self, block: Block) -> None:
        if not block.attributes.startswith("in="):
            self._do_other(block)
            return
        body = textwrap.indent(block.text, "    ")
        prelude = getattr(code_contexts, block.attributes.removeprefix("in="))
        trio.run(prelude, f"async def body():\n{body}", self._folder)

    def _do_other(self, block: Block) -> None:
        """A file, or a part of one there is."""
        assert block.attributes, "nothing says what is to be done with this block"
        folders = {"from": ROOT, "part": self._current_directory}
        key, _, name = block.attributes.partition("=")
        if key in folders:
            assert block.text.strip() in (folders[key] / name).read_text(), f"no part of {name}"
            return
        path = self._current_directory / block.attributes
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(block.text)
