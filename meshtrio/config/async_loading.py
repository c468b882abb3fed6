"""Reading a config without blocking the event loop, within a timeout."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import trio

from meshtrio.config.mesh import MeshConfig
from meshtrio.config.toml_reader import load
from meshtrio.util.errors import ConfigError
from meshtrio.util.worker_threads import ThreadLimiter

_LOAD_TIMEOUT = 30.0
"""Seconds to read a file and check its programs; a file system that hangs would take forever."""
_thread_limiter = ThreadLimiter(4)


async def load_in_thread(path: Path | str, *, runtime_dir: Path | None = None) -> MeshConfig:
    """Read a mesh's TOML file, as `load`, in a thread, which cancellation abandons.

    Raises ConfigError with every error of the file, or because reading it takes too long.
    """
    read = partial(load, path, runtime_dir=runtime_dir)
    try:
        with trio.fail_after(_LOAD_TIMEOUT):
            return await _thread_limiter.run(read)
    except trio.TooSlowError:
        problem = f"{path}: was not read within {_LOAD_TIMEOUT:g} s; does its file system answer?"
        raise ConfigError([problem]) from None
