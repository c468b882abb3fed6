"""Reading a config while an event loop runs: in a thread, and not for ever."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import trio

from meshtrio.config.mesh import MeshConfig
from meshtrio.config.reader import load
from meshtrio.errors import ConfigError
from meshtrio.threads import ThreadLimiter

_TIMEOUT = 30.0
"""Seconds to read a file and to look for its programs; a file system that hangs has no end."""
_limiter = ThreadLimiter(4)


async def load_in_thread(path: Path | str, *, runtime_dir: Path | None = None) -> MeshConfig:
    """Read a mesh's TOML file without blocking the event loop.

    Args:
        path: The file.
        runtime_dir: Overrides that of the file, now and whenever the file is read again.

    Raises:
        ConfigError: With every mistake found in the file, or because it takes too long.

    Cancellation: Returns at once; the thread is left to end by itself.
    """
    read = partial(load, path, runtime_dir=runtime_dir)
    try:
        with trio.fail_after(_TIMEOUT):
            return await trio.to_thread.run_sync(
                read, abandon_on_cancel=True, limiter=_limiter.get()
            )
    except trio.TooSlowError:
        problem = f"{path}: was not read within {_TIMEOUT:g} s; does its file system answer?"
        raise ConfigError([problem]) from None
