"""Configuration of a mesh: attrs classes, and the same names as keys of a TOML file.

Theory of operation
-------------------

Each class is frozen, and validates its own fields when it is created. What involves several
fields, or several plugins, is checked by `validate` methods, which return errors instead of
raising; `MeshConfig` calls all of them and raises one ConfigError.

    mesh              MeshConfig, the root: plugins, groups, services, tasks, [mesh]; TCP ports
    plugin, task, static_service, containment, access, discovery, telemetry,
                      dashboard
                      its parts
    program           what plugins and tasks have in common: the command
    dependency        what plugins, groups and tasks wait for
    schedule          cron expressions
    topology          groups, and the graph of membership and dependencies with its errors
    python_command    the parts of a command that runs Python, for `start = "fork"`
    validators        validators of single fields
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

from meshtrio.config.access import Access as Access
from meshtrio.config.access import AccessRule as AccessRule
from meshtrio.config.access import GatewayConfig as GatewayConfig
from meshtrio.config.access import GatewaySecurity as GatewaySecurity
from meshtrio.config.access import RegistryAccessRule as RegistryAccessRule
from meshtrio.config.containment import Containment as Containment
from meshtrio.config.containment import Rlimits as Rlimits
from meshtrio.config.dashboard import DashboardConfig as DashboardConfig
from meshtrio.config.dashboard import DashboardSecurity as DashboardSecurity
from meshtrio.config.dependency import Dependency as Dependency
from meshtrio.config.dependency import DependencyCondition as DependencyCondition
from meshtrio.config.discovery import DiscoveryConfig as DiscoveryConfig
from meshtrio.config.mesh import ConfigSource as ConfigSource
from meshtrio.config.mesh import LogConfig as LogConfig
from meshtrio.config.mesh import LogFormat as LogFormat
from meshtrio.config.mesh import MeshConfig as MeshConfig
from meshtrio.config.mesh import MeshLimits as MeshLimits
from meshtrio.config.plugin import EscalationScope as EscalationScope
from meshtrio.config.plugin import Liveness as Liveness
from meshtrio.config.plugin import OutputConfig as OutputConfig
from meshtrio.config.plugin import PluginConfig as PluginConfig
from meshtrio.config.plugin import ReplacementOrder as ReplacementOrder
from meshtrio.config.plugin import RestartPolicy as RestartPolicy
from meshtrio.config.plugin import StartMethod as StartMethod
from meshtrio.config.program import ProgramConfig as ProgramConfig
from meshtrio.config.schedule import Schedule as Schedule
from meshtrio.config.static_service import DnsConfig as DnsConfig
from meshtrio.config.static_service import StaticServiceConfig as StaticServiceConfig
from meshtrio.config.task import TaskConfig as TaskConfig
from meshtrio.config.telemetry import TelemetryConfig as TelemetryConfig
from meshtrio.config.toml_reader import load as load
from meshtrio.config.topology import GroupConfig as GroupConfig
from meshtrio.config.topology import Strategy as Strategy
from meshtrio.util.log_level import LogLevel as LogLevel
