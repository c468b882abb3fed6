"""The signals of `meshtrio serve`: SIGTERM and SIGINT stop it, SIGHUP reloads its config.

A closed terminal sends SIGHUP as well, and stops the mesh. Shells such as zsh send it to their jobs
a moment before they exit and their terminal is closed. So the terminal is also looked at for a
moment after a SIGHUP that has found it open; a reload by then has done no harm.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator

import trio

from meshtrio.cli.config_reload import reload_config
from meshtrio.mesh import Mesh
from meshtrio.util.controlling_terminal import ControllingTerminal

_log = logging.getLogger("meshtrio.mesh")

_CLOSING_TIMEOUT = 2.0
"""Seconds after a SIGHUP in which a terminal that is closed still stops the mesh."""
_CLOSING_CHECK_INTERVAL = 0.05


class ServeSignals:
    """Acts on the signals of one mesh; `run` returns when one of them stops it."""

    def __init__(self, mesh: Mesh, terminal: ControllingTerminal) -> None:
        self._mesh = mesh
        self._terminal = terminal
        self._reload_requested = trio.Event()
        self._hung_up = trio.Event()

    async def run(self, signals: AsyncIterator[int]) -> None:
        """Receive signals until the mesh is to stop, which is logged with the reason."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reload_on_request)
            nursery.start_soon(self._watch_closing_terminal, nursery.cancel_scope)
            async for number in signals:
                if number == signal.SIGHUP and not self._terminal.is_closed:
                    self._reload_requested.set()
                    self._hung_up.set()
                    continue
                _log_stop(number)
                break
            nursery.cancel_scope.cancel()

    async def _reload_on_request(self) -> None:
        """Reload on each request; requests during a reload lead to one more, however many."""
        while True:
            await self._reload_requested.wait()
            self._reload_requested = trio.Event()
            _log.info("SIGHUP: reloading the config")
            await reload_config(self._mesh)

    async def _watch_closing_terminal(self, scope: trio.CancelScope) -> None:
        """Cancel `scope` if the terminal is closed soon after a SIGHUP."""
        while True:
            await self._hung_up.wait()
            self._hung_up = trio.Event()
            end = trio.current_time() + _CLOSING_TIMEOUT
            while self._terminal.existed and trio.current_time() < end:
                await trio.sleep(_CLOSING_CHECK_INTERVAL)
                if self._terminal.is_closed:
                    _log_stop(signal.SIGHUP)
                    scope.cancel()
                    return


def _log_stop(number: int) -> None:
    name = signal.Signals(number).name
    reason = f"{name}, the terminal was closed" if number == signal.SIGHUP else name
    _log.info("%s: stopping", reason)
