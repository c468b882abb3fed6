"""The log of a plugin's process: lines of JSON if a mesh reads them, plain text otherwise.

What only one of the two needs is imported when it is used.
"""

from __future__ import annotations

import logging
import os
import sys

from meshtrio.contract import MAX_LINE_LENGTH, MESH_SOCKET

_PLAIN_FORMAT = "%(levelname)s %(name)s: %(message)s"


def configure_logging() -> None:
    """Write the program's log to stderr, unless the program has configured logging itself."""
    if not _is_read_by_mesh():
        logging.basicConfig(level=logging.INFO, format=_PLAIN_FORMAT)
    elif not logging.getLogger().handlers:
        from meshtrio.telemetry.logs.formatters import PluginLineFormatter

        handler = logging.StreamHandler()
        handler.setFormatter(PluginLineFormatter(MAX_LINE_LENGTH))
        logging.basicConfig(level=logging.INFO, handlers=[handler])


def _is_read_by_mesh() -> bool:
    """Return whether stderr goes to a mesh, not to a terminal in whose shell MESH_SOCKET is set."""
    return bool(os.environ.get(MESH_SOCKET)) and sys.stderr is not None and not sys.stderr.isatty()
