"""`serve --reload`: restart plugins and reload the config when files change.

A plugin whose files change is restarted instance by instance: each successor is ready before its
predecessor is stopped, so that an error in the new code costs a line in the log and no call.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio

from meshtrio.cli.file_watcher import ReloadFilter, watch_files
from meshtrio.cli.lifecycle_commands import describe_changes
from meshtrio.config.async_loading import load_in_thread
from meshtrio.errors import ConfigError, MeshtrioError
from meshtrio.mesh import Mesh
from meshtrio.runtime_dir import directory
from meshtrio.supervisor.policy.state import InstanceState
from meshtrio.util.concurrency import open_collapsing_nursery

_log = logging.getLogger("meshtrio.mesh")

_SUPERSEDED_RESTART_TIMEOUT = 15.0
"""Seconds that a restart may still take once files have changed again. One that waits for a plugin
that never becomes ready would block the next one for ever."""


async def reload_on_changes(mesh: Mesh) -> None:
    """Restart plugins and reload the config as files change, until cancelled."""
    source = mesh.config.source
    assert source is not None
    async with open_collapsing_nursery() as nursery:
        ignored = ReloadFilter.for_mesh(directory.resolve_runtime_dir(mesh.config), source.path)
        follower = _ChangeHandler(mesh, source.path, nursery)
        nursery.start_soon(
            watch_files, follower.config_directories, follower.on_config_changed, None, False
        )
        nursery.start_soon(
            watch_files, follower.plugin_directories, follower.on_files_changed, ignored
        )
        _log.info("watching files: changes restart plugins and reload the config")
        await trio.sleep_forever()


class _ChangeHandler:
    """Maps changed files to work: one worker for each plugin, and one for the config."""

    def __init__(self, mesh: Mesh, config_file: Path, nursery: trio.Nursery) -> None:
        self._mesh = mesh
        self._config_file = config_file
        self._nursery = nursery
        self._workers: dict[str, _Worker] = {}

    def config_directories(self) -> frozenset[Path]:
        return frozenset([self._config_file.parent])

    def plugin_directories(self) -> frozenset[Path]:
        return frozenset(plugin.cwd for plugin in self._mesh.config.plugins if plugin.cwd)

    def on_config_changed(self, paths: set[Path]) -> None:
        if self._config_file in paths:
            self._get_worker("", partial(_reload, self._mesh)).trigger()

    def on_files_changed(self, paths: set[Path]) -> None:
        for plugin in self._mesh.config.plugins:
            below = sorted(p for p in paths if plugin.cwd and p.is_relative_to(plugin.cwd))
            if below:
                names = ", ".join(path.name for path in below[:3])
                more = f" and {len(below) - 3} more" if len(below) > 3 else ""
                _log.info("%s: %s%s changed", plugin.name, names, more)
                self._get_worker(
                    plugin.name, partial(_restart_plugin, self._mesh, plugin.name)
                ).trigger()

    def _get_worker(self, name: str, work: Callable[[], Awaitable[None]]) -> _Worker:
        if name not in self._workers:
            self._workers[name] = _Worker(work)
            self._nursery.start_soon(self._workers[name].run)
        return self._workers[name]


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


async def _reload(mesh: Mesh) -> None:
    source = mesh.config.source
    assert source is not None
    try:
        config = await load_in_thread(source.path, runtime_dir=source.runtime_dir)
        reloaded = await mesh.reload(config)
    except ConfigError as exc:
        for problem in exc.problems:
            _log.error("%s", problem)
        _log.error("keeping the current config")
    except MeshtrioError as exc:
        _log.error("reloading %s: %s", source.path.name, exc)
    else:
        _log.info("reloaded %s: %s", source.path.name, "; ".join(describe_changes(reloaded)))


async def _restart_plugin(mesh: Mesh, name: str) -> None:
    try:
        await _restart_instances(mesh, name)
    except MeshtrioError as exc:
        _log.error("%s was not restarted: %s", name, exc)


async def _restart_instances(mesh: Mesh, name: str) -> None:
    found = [status for status in mesh.instances() if status.name == name]
    if all(status.state is InstanceState.STOPPED for status in found):
        _log.info("%s is stopped; not starting it", name)
        return
    if not any(status.state is InstanceState.READY for status in found):
        # No call can be lost; this also skips the rest of a backoff and retries a failed instance.
        await mesh.stop(name)
        await mesh.start(name)
        return
    before = {status.pid for status in found}
    await mesh.restart(name)
    if any(status.pid in before for status in mesh.instances() if status.name == name):
        # An instance that was starting when the files changed has become ready with the old ones.
        await mesh.restart(name)
