"""What a mesh is to run: attrs classes, and the same in TOML with the same names.

`load(path)` reports every mistake of a file at once, each with file, key and reason. Times are
seconds throughout.
"""

from meshtrio.config.access import (
    Access,
    AccessRule,
    GatewayConfig,
    GatewaySecurity,
    RegistryAccessRule,
)
from meshtrio.config.containment import Containment, Rlimits
from meshtrio.config.group import GroupConfig, Strategy
from meshtrio.config.limits import MeshLimits
from meshtrio.config.log import LogConfig, LogFormat
from meshtrio.config.mesh import ConfigSource, MeshConfig
from meshtrio.config.plugin import (
    EscalationScope,
    Liveness,
    OutputConfig,
    PluginConfig,
    RestartPolicy,
)
from meshtrio.config.service import StaticServiceConfig
from meshtrio.config.telemetry import TelemetryConfig
from meshtrio.config.toml_reader import load
from meshtrio.util.log_level import LogLevel

__all__ = [
    "Access",
    "AccessRule",
    "ConfigSource",
    "Containment",
    "EscalationScope",
    "GatewayConfig",
    "GatewaySecurity",
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
    "StaticServiceConfig",
    "Strategy",
    "TelemetryConfig",
    "load",
]
