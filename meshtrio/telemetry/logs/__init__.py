"""Log records: lifecycle events and plugins' output, and formatters with trace ids.

Theory of operation
-------------------

A plugin logs to stderr: lines of JSON if its mesh reads them, plain text otherwise
(`configure_logging`). The mesh's supervisor reads the lines and sends each as an event;
`event_logger` turns every event, and every line, into one record of the standard library's logging,
whose level, message and fields are those of the line. What becomes of the records is up to the
program's handlers: `formatters.JsonFormatter` writes them as lines of JSON, `meshtrio serve` also
as plain text.

    event_logger     events and lines to records
    formatters       records, with any values, to lines of JSON; ids of trace and span

Formatting never raises and never writes more than one line for a record, whatever was logged.
"""

from __future__ import annotations

import logging
import os
import sys

from meshtrio.contract import MAX_LINE_LENGTH, MESH_SOCKET

_PLAIN_FORMAT = "%(levelname)s %(name)s: %(message)s"


def configure_logging() -> None:
    """Write the program's log to stderr, unless the program has configured logging itself."""
    # A terminal in whose shell MESH_SOCKET is set is no mesh.
    if not os.environ.get(MESH_SOCKET) or sys.stderr is None or sys.stderr.isatty():
        logging.basicConfig(level=logging.INFO, format=_PLAIN_FORMAT)
    elif not logging.getLogger().handlers:
        from meshtrio.telemetry.logs.formatters import PluginLineFormatter

        handler = logging.StreamHandler()
        handler.setFormatter(PluginLineFormatter(MAX_LINE_LENGTH))
        logging.basicConfig(level=logging.INFO, handlers=[handler])
