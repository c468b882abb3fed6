"""File watching, by watchfiles."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

import trio
from watchfiles import Change, DefaultFilter, awatch
from watchfiles.main import FileChange

from meshtrio.util.concurrency import open_collapsing_nursery

_log = logging.getLogger("meshtrio.mesh")

_DIRECTORY_CHECK_INTERVAL = 1000
"""Milliseconds between checks whether the set of watched folders has changed."""
_MISSING_DIRECTORY_RETRY_DELAY = 1.0


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


async def watch_files(
    get_directories: Callable[[], frozenset[Path]],
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
        there = [folder for folder in wanted if folder.is_dir()]
        if not there:
            await trio.sleep(_MISSING_DIRECTORY_RETRY_DELAY)
            continue
        still = partial(_are_directories_unchanged, get_directories, wanted)
        try:
            await _watch_until_changed(there, still, on_change, watch_filter, recursive)
        except (OSError, RuntimeError) as exc:
            _log.error("cannot watch files any more: %s", exc)
            return


def _are_directories_unchanged(
    get_directories: Callable[[], frozenset[Path]], directories: frozenset[Path]
) -> bool:
    return get_directories() == directories


async def _watch_until_changed(
    paths: list[Path],
    is_current: Callable[[], bool],
    on_change: Callable[[set[Path]], None],
    watch_filter: Callable[[Change, str], bool] | None,
    recursive: bool,
) -> None:
    """Watch `paths` for as long as `is_current` returns True."""
    stop = trio.Event()
    async with open_collapsing_nursery() as nursery:
        nursery.start_soon(_set_when_cancelled, stop)
        changes = awatch(
            *paths,
            watch_filter=watch_filter,
            stop_event=stop,
            rust_timeout=_DIRECTORY_CHECK_INTERVAL,
            yield_on_timeout=True,
            recursive=recursive,
        )
        async with aclosing(changes):
            async for found in changes:
                if found:
                    on_change(_changed_paths(found))
                if not is_current():
                    break
        nursery.cancel_scope.cancel()


async def _set_when_cancelled(stop: trio.Event) -> None:
    """Set `stop` on cancellation: watchfiles' thread polls the event."""
    try:
        await trio.sleep_forever()
    finally:
        stop.set()


def _changed_paths(found: set[FileChange]) -> set[Path]:
    return {Path(path) for _, path in found}
