"""Configuration of a mesh: attrs classes, and the same names as keys of a TOML file.

Theory of operation
-------------------

Each class is frozen, and validates its own fields when it is created. What involves several
fields, or several plugins, is checked by `validate` methods, which return errors instead of
raising; `MeshConfig` calls all of them and raises one ConfigError.

    mesh              MeshConfig, the root: plugins, groups, services, [mesh]
    plugin, group, containment, access, telemetry
                      its parts
    topology          membership in groups, and dependencies: the graph, and its errors
    validators        validators of single fields
    port_ranges       conflicts between TCP ports
    toml_reader       `load`: a file to a MeshConfig, by the classes' types and validators
    async_loading     the same in a thread
    otlp_endpoint     OpenTelemetry's variables, read and written
    binary_log_filter gRFC A16's filters

The classes are the schema: a key is a field, its docstring is its documentation
(`docs/generate.py`), its type and validator are checked for TOML and for Python alike. `load`
reports every error of a file at once, each as "file: key: reason". A config does not change; a
reload makes another one, which the supervisor compares with the current one.

Times are seconds, sizes bytes, unless a field says otherwise.
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
from meshtrio.config.mesh import (
    ConfigSource,
    LogConfig,
    LogFormat,
    MeshConfig,
    MeshLimits,
    StaticServiceConfig,
)
from meshtrio.config.plugin import (
    EscalationScope,
    Liveness,
    OutputConfig,
    PluginConfig,
    RestartPolicy,
)
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
