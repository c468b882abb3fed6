"""Files that change, told by watchfiles."""

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

from meshtrio.structured import open_nursery_of_one

_log = logging.getLogger("meshtrio.mesh")

_LOOK_EVERY = 1000
"""Milliseconds until it is looked whether other folders are to be watched now."""
_PAUSE = 1.0


class Ignored(DefaultFilter):
    """Files that no code is in: caches, and what a plugin or the mesh writes while it runs.

    Were they not ignored, a plugin that writes to its own folder would be renewed without end.
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
    def of(cls, runtime_dir: Path, config_file: Path) -> Ignored:
        """Beside those, the mesh's own files: its sockets, its log, and its config."""
        logs = [os.path.realpath(f"/proc/self/fd/{descriptor}") for descriptor in (1, 2)]
        return cls(ignore_paths=[f"{runtime_dir}{os.sep}", str(config_file), *logs])


async def watch(
    folders: Callable[[], frozenset[Path]],
    tell: Callable[[set[Path]], None],
    ignored: Callable[[Change, str], bool] | None,
    recursive: bool = True,
) -> None:
    """Tell of files that change in folders, which may be others from time to time.

    Goes on until cancelled, or until they cannot be watched, which the log tells then.
    """
    # It tells of each change on its own, at the level of our log.
    logging.getLogger("watchfiles").setLevel(logging.WARNING)
    while True:
        wanted = folders()
        there = [folder for folder in wanted if folder.is_dir()]
        if not there:
            await trio.sleep(_PAUSE)
            continue
        still = partial(_are, folders, wanted)
        try:
            await _watch(there, still, tell, ignored, recursive)
        except (OSError, RuntimeError) as exc:
            _log.error("changes of files cannot be followed any more: %s", exc)
            return


def _are(folders: Callable[[], frozenset[Path]], wanted: frozenset[Path]) -> bool:
    return folders() == wanted


async def _watch(
    paths: list[Path],
    still: Callable[[], bool],
    tell: Callable[[set[Path]], None],
    ignored: Callable[[Change, str], bool] | None,
    recursive: bool,
) -> None:
    """Tell of changes for as long as it is `still` these folders."""
    stop = trio.Event()
    async with open_nursery_of_one() as nursery:
        nursery.start_soon(_set_at_end, stop)
        changes = awatch(
            *paths,
            watch_filter=ignored,
            stop_event=stop,
            rust_timeout=_LOOK_EVERY,
            yield_on_timeout=True,
            recursive=recursive,
        )
        async with aclosing(changes):
            async for found in changes:
                if found:
                    tell(_paths(found))
                if not still():
                    break
        nursery.cancel_scope.cancel()


async def _set_at_end(stop: trio.Event) -> None:
    """The thread that waits for changes does not know of cancellation: it looks at an event."""
    try:
        await trio.sleep_forever()
    finally:
        stop.set()


def _paths(found: set[FileChange]) -> set[Path]:
    return {Path(path) for _, path in found}
