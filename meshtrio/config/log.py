"""The log of `meshtrio serve`."""

from __future__ import annotations

from enum import Enum

import attrs

from meshtrio.util.log_level import LogLevel


class LogFormat(Enum):
    """How a record is written."""

    CONSOLE = "console"
    JSON = "json"


@attrs.frozen
class LogConfig:
    """The log that `meshtrio serve` writes to stderr.

    A program that a mesh is embedded in sets up logging itself. Cannot be changed by a reload.
    """

    format: LogFormat = LogFormat.CONSOLE
    """For people, or an object of JSON on each line; `--log-format` goes before it."""
    level: LogLevel = LogLevel.INFO
    """What matters less is left out; `--log-level` goes before it. What a plugin with a
    `make_log_level` writes goes by that."""
