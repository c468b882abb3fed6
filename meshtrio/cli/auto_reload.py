"""`serve --reload`: restart plugins and reload the config when files change.

A plugin whose files change is restarted instance by instance: each successor is ready before its
predecessor is stopped, so that an error in the new code costs a line in the log and no call.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

import trio
from watchfiles import Change, DefaultFilter, awatch

from meshtrio.cli.config_reload import reload_config
from meshtrio.mesh import Mesh
from meshtrio.runtime_dir import directory
from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.util.concurrency import open_collapsing_nursery, run_during
from meshtrio.util.errors import MeshtrioError

_log = logging.getLogger("meshtrio.mesh")

_SUPERSEDED_RESTART_TIMEOUT = 15.0
"""Seconds that a restart may still take once files have changed again. One that waits for a plugin
that never becomes ready would block the next one for ever."""
_DIRECTORY_CHECK_INTERVAL = 1000
"""Milliseconds between checks whether the set of watched folders has changed."""
_MISSING_DIRECTORY_RETRY_DELAY = 1.0


async def reload_on_changes(mesh: Mesh) -> None:
    """Restart plugins and reload the config as files change, until cancelled."""
    source = mesh.config.source
    assert source is not None
    workers: dict[str, _Worker] = {}

    def trigger(name: str, work: Callable[[], Awaitable[None]]) -> None:
        if name not in workers:
            workers[name] = _Worker(work)
            nursery.start_soon(workers[name].run)
        workers[name].trigger()

    def on_config_changed(paths: set[Path]) -> None:
        if source.path in paths:
            trigger("", partial(reload_config, mesh))

    def on_files_changed(paths: set[Path]) -> None:
        for plugin in mesh.config.plugins:
            below = sorted(p for p in paths if plugin.cwd and p.is_relative_to(plugin.cwd))
            if below:
                names = ", ".join(path.name for path in below[:3])
                more = f" and {len(below) - 3} more" if len(below) > 3 else ""
                _log.info("%s: %s%s changed", plugin.name, names, more)
                trigger(plugin.name, partial(_restart_plugin, mesh, plugin.name))

    def plugin_directories() -> set[Path]:
        return {plugin.cwd for plugin in mesh.config.plugins if plugin.cwd}

    async with open_collapsing_nursery() as nursery:
        ignored = ReloadFilter.for_mesh(directory.resolve_runtime_dir(mesh.config), source.path)
        config_directory = {source.path.parent}
        nursery.start_soon(_watch_files, lambda: config_directory, on_config_changed, None, False)
        nursery.start_soon(_watch_files, plugin_directories, on_files_changed, ignored)
        _log.info("watching files: changes restart plugins and reload the config")


class _Worker:
    """Runs `work` each time it is triggered; triggers during a run are merged into one."""

    def __init__(self, work: Callable[[], Awaitable[None]]) -> None:
        self._work = work
        self._triggered = trio.Event()
        self._scope = trio.CancelScope()

    def trigger(self) -> None:
        self._triggered.set()
        self._scope.deadline = min(
            self._scope.deadline, trio.current_time() + _SUPERSEDED_RESTART_TIMEOUT
        )

    async def run(self) -> None:
        while True:
            await self._triggered.wait()
            self._triggered = trio.Event()
            with trio.CancelScope() as self._scope:
                await self._work()


async def _restart_plugin(mesh: Mesh, name: str) -> None:
    found = [status for status in mesh.instances() if status.name == name]
    before = {status.pid for status in found} - {None}
    states = {status.state for status in found}
    try:
        if states <= {InstanceState.STOPPED, InstanceState.ATTACHED, InstanceState.IDLE}:
            down = " and ".join(sorted(state.value for state in states)) or "stopped"
            _log.info("%s is %s; not starting it", name, down)
        elif states.isdisjoint({InstanceState.READY, InstanceState.ATTACHED}):
            # No call can be lost; this also skips the rest of a backoff and retries a failed one.
            await mesh.stop(name)
            await mesh.start(name)
        else:
            await mesh.restart(name)
            if any(status.pid in before for status in mesh.instances() if status.name == name):
                # An instance that was starting when the files changed became ready with the old.
                await mesh.restart(name)
    except MeshtrioError as exc:
        _log.error("%s was not restarted: %s", name, exc)


# -- file watching, by watchfiles ---


class ReloadFilter(DefaultFilter):
    """Ignores files that contain no code: caches, and what plugins or the mesh write at run time.

    Otherwise a plugin that writes to its own folder would be restarted without end.
    """

    ignore_dirs = (
        *DefaultFilter.ignore_dirs,
        *("venv", "site-packages", ".ruff_cache", ".nox", ".eggs", ".cache"),
    )
    ignore_entity_patterns = (
        *DefaultFilter.ignore_entity_patterns,
        r"\.(log|sock|lock|pid|tmp|db|sqlite3?)$",
        r"\.(db|sqlite3?)-(journal|wal|shm)$",
        r"\.pyc\.\d+$",
    )

    @classmethod
    def for_mesh(cls, runtime_dir: Path, config_file: Path) -> ReloadFilter:
        """Return a filter that also ignores the mesh's sockets, its log, and its config."""
        logs = [os.path.realpath(f"/proc/self/fd/{descriptor}") for descriptor in (1, 2)]
        return cls(ignore_paths=[f"{runtime_dir}{os.sep}", str(config_file), *logs])


async def _watch_files(
    get_directories: Callable[[], set[Path]],
    on_change: Callable[[set[Path]], None],
    watch_filter: Callable[[Change, str], bool] | None,
    recursive: bool = True,
) -> None:
    """Call `on_change` with the files that change in a set of folders, which may change as well.

    Returns when the folders can no longer be watched, which is logged.
    """
    # watchfiles logs each change.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    while True:
        wanted = get_directories()
        existing = [folder for folder in wanted if folder.is_dir()]
        if not existing:
            await trio.sleep(_MISSING_DIRECTORY_RETRY_DELAY)
            continue
        try:
            stop = trio.Event()
            changes = awatch(
                *existing,
                watch_filter=watch_filter,
                stop_event=stop,
                rust_timeout=_DIRECTORY_CHECK_INTERVAL,
                yield_on_timeout=True,
                recursive=recursive,
            )
            async with run_during(_set_when_cancelled, stop), aclosing(changes):
                async for found in changes:
                    if found:
                        on_change({Path(path) for _, path in found})
                    if get_directories() != wanted:
                        break
        except (OSError, RuntimeError) as exc:
            _log.error("cannot watch files any more: %s", exc)
            return


async def _set_when_cancelled(stop: trio.Event) -> None:
    """Set `stop` on cancellation: watchfiles' thread polls the event."""
    try:
        await trio.sleep_forever()
    finally:
        stop.set()
