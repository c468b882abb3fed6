"""The log of a plugin's process: lines of JSON where a mesh reads them, plain text elsewhere.

Nothing that only one of the two needs is imported before.
"""

from __future__ import annotations

import logging
import os
import sys

from meshtrio.contract import MAX_LINE_LENGTH, MESH_SOCKET

_PLAIN_FORMAT = "%(levelname)s %(name)s: %(message)s"


def configure_logging() -> None:
    """Have what the program logs written to stderr, unless it has set up logging itself."""
    if not _is_read_by_mesh():
        logging.basicConfig(level=logging.INFO, format=_PLAIN_FORMAT)
    elif not logging.getLogger().handlers:
        from meshtrio.telemetry.logs.formatters import PluginLineFormatter

        handler = logging.StreamHandler()
        handler.setFormatter(PluginLineFormatter(MAX_LINE_LENGTH))
        logging.basicConfig(level=logging.INFO, handlers=[handler])


def _is_read_by_mesh() -> bool:
    """Somebody who runs a plugin by hand reads it himself, in a shell with MESH_SOCKET, too."""
    return bool(os.environ.get(MESH_SOCKET)) and sys.stderr is not None and not sys.stderr.isatty()
