"""The live screen of `meshtrio top`, and its keys."""

from __future__ import annotations

import os
import re
import signal
import sys
import termios
import tty
from collections.abc import AsyncIterator
from typing import Any

import click
import trio
from rich.console import Group
from rich.live import Live
from rich.text import Text

from meshtrio.cli import rich_output
from meshtrio.cli.top_table import INSTANCE_VIEW, SortOrder, View, make_fitting_statistics_table
from meshtrio.messages import control
from meshtrio.util.concurrency import open_collapsing_nursery

_KEY_HELP = "q quits · s or ← → sort by another column · r reverses the order"
_KEYS = {
    **dict.fromkeys((b"s", b"\x1b[C"), "next"),
    **dict.fromkeys((b"S", b"\x1b[D"), "previous"),
    **dict.fromkeys((b"r", b"\x1b[A", b"\x1b[B"), "reverse"),
    **dict.fromkeys((b"q", b"Q"), "quit"),
}


async def run_screen(reports: Any, view: View = INSTANCE_VIEW) -> None:
    """Show reports as they arrive, until q, Ctrl-C or SIGTERM, and restore the terminal."""
    now = await anext(reports)
    console = rich_output.make_console(live=True)
    with (
        Live(console=console, screen=True, auto_refresh=False) as live,
        trio.open_signal_receiver(signal.SIGTERM, signal.SIGWINCH) as signals,
    ):
        async with open_collapsing_nursery() as nursery:
            shown = _TopScreen(live, now, view)
            nursery.start_soon(shown.show_reports, reports)
            nursery.start_soon(_handle_keys, shown)
            nursery.start_soon(shown.handle_signals, signals)
            await shown.quit_requested.wait()
            nursery.cancel_scope.cancel()
    if shown.exit_status:
        raise click.exceptions.Exit(shown.exit_status)


class _TopScreen:
    """The table on the screen, its sort order, and its reaction to keys."""

    def __init__(self, live: Live, now: control.Statistics, view: View) -> None:
        self.quit_requested = trio.Event()
        self.exit_status = 0
        self._live = live
        self._before: control.Statistics | None = None
        self._now = now
        self._order = SortOrder(view)
        self.draw()

    def draw(self) -> None:
        console = self._live.console
        table = make_fitting_statistics_table(self._before, self._now, self._order, console)
        self._live.update(Group(table, Text(_KEY_HELP, "dim", no_wrap=True)), refresh=True)

    async def show_reports(self, reports: Any) -> None:
        async for report in reports:
            self._before, self._now = self._now, report
            self.draw()

    async def handle_signals(self, signals: AsyncIterator[int]) -> None:
        """Quit on SIGTERM, so that the terminal is restored; redraw when its size changes."""
        async for number in signals:
            if number == signal.SIGTERM:
                self.exit_status = 128 + number
                self.quit_requested.set()
            self.draw()

    def handle_key(self, key: str) -> None:
        if key == "quit":
            self.quit_requested.set()
        elif key == "reverse":
            self._order.reverse()
        else:
            self._order.move_column(1 if key == "next" else -1)
        self.draw()


async def _handle_keys(shown: _TopScreen) -> None:
    descriptor = sys.stdin.fileno()
    if not os.isatty(descriptor):
        return
    before = termios.tcgetattr(descriptor)
    # Keys are read one by one, without echo. Ctrl-C still interrupts.
    tty.setcbreak(descriptor)
    try:
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            typed = os.read(descriptor, 64)
            if not typed:
                return
            for key in _parse_keys(typed):
                shown.handle_key(key)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _parse_keys(typed: bytes) -> list[str]:
    """Return the actions of the keys. An arrow key sends several bytes, in one of two forms."""
    keys = re.findall(rb"\x1b\[.|.", typed.replace(b"\x1bO", b"\x1b["), re.DOTALL)
    return [_KEYS[key] for key in keys if key in _KEYS]
