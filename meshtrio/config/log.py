"""The log of `meshtrio serve`."""

from __future__ import annotations

from enum import Enum

import attrs

from meshtrio.util.log_level import LogLevel


class LogFormat(Enum):
    """The format of log records."""

    CONSOLE = "console"
    JSON = "json"


@attrs.frozen
class LogConfig:
    """The log that `meshtrio serve` writes to stderr.

    A program that embeds a mesh configures logging itself. Cannot be changed by a reload.
    """

    format: LogFormat = LogFormat.CONSOLE
    """`console` for text, `json` for one JSON object per line; `--log-format` overrides it."""
    level: LogLevel = LogLevel.INFO
    """Minimum level of records; `--log-level` overrides it. The output of a plugin with a
    `log_level` follows that instead."""
