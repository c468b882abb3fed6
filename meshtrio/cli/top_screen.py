"""The live screen of `meshtrio top`, and its keys."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import trio
from rich.console import Group
from rich.live import Live
from rich.text import Text

from meshtrio.cli import screen
from meshtrio.cli.top_table import Order, make_fitting_table
from meshtrio.messages import control
from meshtrio.structured import open_nursery_of_one

_HELP = "q quits · s or ← → sort by another column · r turns the order round"
_KEYS = {
    b"s": "next",
    b"S": "previous",
    b"r": "turn",
    b"q": "quit",
    b"Q": "quit",
    b"\x1b[C": "next",
    b"\x1b[D": "previous",
    b"\x1b[A": "turn",
    b"\x1b[B": "turn",
}


async def show(watch: Any) -> None:
    """Show reports as they come, until q, Ctrl-C or SIGTERM; the terminal is then as before."""
    async with watch() as reports:
        now = await anext(reports)
        with Live(console=screen.console(live=True), screen=True, auto_refresh=False) as live:
            async with open_nursery_of_one() as nursery:
                shown = _Screen(live, now)
                nursery.start_soon(shown.follow, reports)
                nursery.start_soon(_obey_keys, shown)
                status = await _until_over(shown)
                nursery.cancel_scope.cancel()
    if status:
        raise click.exceptions.Exit(status)


async def _until_over(shown: _Screen) -> int:
    """Wait for q, or SIGTERM, which would leave the terminal as it is; give the exit status."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGWINCH) as signals:
        async with open_nursery_of_one() as nursery:
            status = 0

            async def heed() -> None:
                nonlocal status
                async for number in signals:
                    if number == signal.SIGTERM:
                        status = 128 + number
                        shown.over.set()
                    shown.draw()

            nursery.start_soon(heed)
            await shown.over.wait()
            nursery.cancel_scope.cancel()
    return status


class _Screen:
    """What is shown."""

    def __init__(self, live: Live, now: control.Statistics) -> None:
        self.over = trio.Event()
        self._live = live
        self._before: control.Statistics | None = None
        self._now = now
        self._order = Order()
        self.draw()

    def draw(self) -> None:
        table = make_fitting_table(self._before, self._now, self._order, self._live.console)
        self._live.update(Group(table, Text(_HELP, "dim", no_wrap=True)), refresh=True)

    async def follow(self, reports: Any) -> None:
        async for report in reports:
            self._before, self._now = self._now, report
            self.draw()

    def press(self, key: str) -> None:
        match key:
            case "quit":
                self.over.set()
            case "next":
                self._order.move(1)
            case "previous":
                self._order.move(-1)
            case "turn":
                self._order.turn()
        self.draw()


async def _obey_keys(shown: _Screen) -> None:
    descriptor = sys.stdin.fileno()
    if not os.isatty(descriptor):
        return
    with _each_key(descriptor):
        while True:
            await trio.lowlevel.wait_readable(descriptor)
            typed = os.read(descriptor, 64)
            if not typed:
                return
            for key in _keys(typed):
                shown.press(key)


@contextmanager
def _each_key(descriptor: int) -> Iterator[None]:
    """Have keys come one by one, and not shown, for the block. Ctrl-C stays what it is."""
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _keys(typed: bytes) -> Iterator[str]:
    """What was pressed, by name; an arrow comes as several bytes, in either of two forms."""
    rest = typed.replace(b"\x1bO", b"\x1b[")
    while rest:
        length = 3 if rest.startswith(b"\x1b[") else 1
        key, rest = rest[:length], rest[length:]
        if key in _KEYS:
            yield _KEYS[key]
