"""What a mesh is to run: attrs classes, and the same in TOML with the same names.

`load(path)` reports every mistake of a file at once, each with file, key and reason. Times are
seconds throughout.
"""

from meshtrio.config.access import Access, AccessRule, GatewayConfig, RegistryAccessRule, Security
from meshtrio.config.containment import Containment, Rlimits
from meshtrio.config.group import GroupConfig, Strategy
from meshtrio.config.limits import MeshLimits
from meshtrio.config.log import LogConfig, LogFormat
from meshtrio.config.mesh import MeshConfig, Source
from meshtrio.config.plugin import (
    Escalate,
    Liveness,
    OutputConfig,
    PluginConfig,
    RestartPolicy,
)
from meshtrio.config.reader import load
from meshtrio.config.service import ServiceTable
from meshtrio.config.telemetry import TelemetryConfig
from meshtrio.levels import LogLevel

__all__ = [
    "Access",
    "AccessRule",
    "Containment",
    "Escalate",
    "GatewayConfig",
    "GroupConfig",
    "Liveness",
    "LogConfig",
    "LogFormat",
    "LogLevel",
    "MeshConfig",
    "MeshLimits",
    "OutputConfig",
    "PluginConfig",
    "RegistryAccessRule",
    "RestartPolicy",
    "Rlimits",
    "Security",
    "ServiceTable",
    "Source",
    "Strategy",
    "TelemetryConfig",
    "load",
]
