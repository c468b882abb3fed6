"""A structured-concurrency runtime for plugin processes that talk gRPC.

    from meshtrio import mesh, plugin

`mesh` runs a mesh or connects to one, and `plugin` serves as a plugin. The classes that programs
hold, pass or catch are names of this package as well, such as `meshtrio.Channel`,
`meshtrio.PluginConfig` and `meshtrio.PluginDiedError`; all names that are not listed in `__all__`
here or in one of the modules that it lists may change without notice. Each is imported when it is
first used, because every import delays the start of plugins, and because some need an extra:
`PrometheusCollector` needs `metrics`, `Tracing` and `export_traces` need `tracing`. Generated code
imports `stubs`.

docs/design.md says which package does what, and how to find the code that answers a question.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from meshtrio.client.call_destination import CallKeywords as CallKeywords
    from meshtrio.client.channel import Channel as Channel
    from meshtrio.client.channel import ChannelOptions as ChannelOptions
    from meshtrio.client.channel import connect_to as connect_to
    from meshtrio.client.interceptors import ClientCall as ClientCall
    from meshtrio.client.interceptors import Interceptor as Interceptor
    from meshtrio.client.interceptors import call_credentials as call_credentials
    from meshtrio.client.multicallable import CallMetadata as CallMetadata
    from meshtrio.client.remote_mesh import register as register
    from meshtrio.client.streaming import StreamingCall as StreamingCall
    from meshtrio.cluster.connecting import connect as connect
    from meshtrio.config import Access as Access
    from meshtrio.config import AccessRule as AccessRule
    from meshtrio.config import Containment as Containment
    from meshtrio.config import DashboardConfig as DashboardConfig
    from meshtrio.config import Dependency as Dependency
    from meshtrio.config import DiscoveryConfig as DiscoveryConfig
    from meshtrio.config import DnsConfig as DnsConfig
    from meshtrio.config import GatewayConfig as GatewayConfig
    from meshtrio.config import GroupConfig as GroupConfig
    from meshtrio.config import Liveness as Liveness
    from meshtrio.config import LogConfig as LogConfig
    from meshtrio.config import MeshConfig as MeshConfig
    from meshtrio.config import MeshLimits as MeshLimits
    from meshtrio.config import OutputConfig as OutputConfig
    from meshtrio.config import PluginConfig as PluginConfig
    from meshtrio.config import RegistryAccessRule as RegistryAccessRule
    from meshtrio.config import Rlimits as Rlimits
    from meshtrio.config import StaticServiceConfig as StaticServiceConfig
    from meshtrio.config import TaskConfig as TaskConfig
    from meshtrio.config import TelemetryConfig as TelemetryConfig
    from meshtrio.config import load as load_config  # noqa: F401
    from meshtrio.config.otlp_endpoint import OtlpEndpoint as OtlpEndpoint
    from meshtrio.discovery.endpoint import Endpoint as Endpoint
    from meshtrio.discovery.endpoint import ExitInfo as ExitInfo
    from meshtrio.errors import CallRefusedError as CallRefusedError
    from meshtrio.errors import ConfigError as ConfigError
    from meshtrio.errors import ConnectionLostError as ConnectionLostError
    from meshtrio.errors import MeshFailedError as MeshFailedError
    from meshtrio.errors import MeshtrioError as MeshtrioError
    from meshtrio.errors import NoMeshError as NoMeshError
    from meshtrio.errors import PluginDiedError as PluginDiedError
    from meshtrio.errors import PluginFailedError as PluginFailedError
    from meshtrio.errors import UnknownNameError as UnknownNameError
    from meshtrio.errors import UntrustedMeshError as UntrustedMeshError
    from meshtrio.errors import UsageError as UsageError
    from meshtrio.grpc.service_config import MethodConfig as MethodConfig
    from meshtrio.grpc.service_config import ServiceConfig as ServiceConfig
    from meshtrio.grpc.service_config import parse_service_config as parse_service_config
    from meshtrio.http2.limits import Limits as Limits
    from meshtrio.mesh import Mesh as Mesh
    from meshtrio.rpc.context import ServerContext as ServerContext
    from meshtrio.rpc.context import current_call as current_call
    from meshtrio.rpc.server_call import ServerInterceptor as ServerInterceptor
    from meshtrio.rpc.timeouts import Timeouts as Timeouts
    from meshtrio.supervisor.instance import InstanceStatus as InstanceStatus
    from meshtrio.supervisor.operations import DrainResult as DrainResult
    from meshtrio.supervisor.operations import ReloadResult as ReloadResult
    from meshtrio.supervisor.process.output.output_lines import OutputLine as OutputLine
    from meshtrio.supervisor.shutdown_report import ShutdownReport as ShutdownReport
    from meshtrio.supervisor.statistics import MeshStatistics as MeshStatistics
    from meshtrio.supervisor.tasks.task import TaskResult as TaskResult
    from meshtrio.supervisor.tasks.task import TaskStatus as TaskStatus
    from meshtrio.telemetry.binary_log import open_binary_log as open_binary_log
    from meshtrio.telemetry.logs.formatters import JsonFormatter as JsonFormatter
    from meshtrio.telemetry.logs.formatters import TraceIdFilter as TraceIdFilter
    from meshtrio.telemetry.metrics import Metrics as Metrics
    from meshtrio.telemetry.metrics.prometheus import PrometheusCollector as PrometheusCollector
    from meshtrio.telemetry.traces import Tracing as Tracing
    from meshtrio.telemetry.traces.pipeline import export_traces as export_traces
    from meshtrio.util.backoff import Backoff as Backoff
    from meshtrio.util.log_level import LogLevel as LogLevel
    from meshtrio.util.tls_config import ClientTlsConfig as ClientTlsConfig
    from meshtrio.util.tls_config import ServerTlsConfig as ServerTlsConfig
    from meshtrio.util.version import VERSION as __version__  # noqa: F401, N811

_CONFIG_CLASSES = (
    "Access AccessRule Containment DashboardConfig Dependency DiscoveryConfig DnsConfig"
    " GatewayConfig GroupConfig Liveness LogConfig"
    " MeshConfig MeshLimits OutputConfig PluginConfig RegistryAccessRule Rlimits"
    " StaticServiceConfig TaskConfig TelemetryConfig"
)
_ERRORS = (
    "CallRefusedError ConfigError ConnectionLostError MeshFailedError MeshtrioError NoMeshError"
    " PluginDiedError PluginFailedError UnknownNameError UntrustedMeshError UsageError"
)
_NAMES_OF_MODULES = {
    "client.call_destination": "CallKeywords",
    "client.channel": "Channel ChannelOptions connect_to",
    "client.interceptors": "ClientCall Interceptor call_credentials",
    "client.multicallable": "CallMetadata",
    "client.remote_mesh": "register",
    "client.streaming": "StreamingCall",
    "cluster.connecting": "connect",
    "config": _CONFIG_CLASSES,
    "config.otlp_endpoint": "OtlpEndpoint",
    "discovery.endpoint": "Endpoint ExitInfo",
    "errors": _ERRORS,
    "grpc.service_config": "MethodConfig ServiceConfig parse_service_config",
    "http2.limits": "Limits",
    "mesh": "Mesh",
    "rpc.context": "ServerContext current_call",
    "rpc.server_call": "ServerInterceptor",
    "rpc.timeouts": "Timeouts",
    "supervisor.instance": "InstanceStatus",
    "supervisor.operations": "DrainResult ReloadResult",
    "supervisor.process.output.output_lines": "OutputLine",
    "supervisor.shutdown_report": "ShutdownReport",
    "supervisor.statistics": "MeshStatistics",
    "supervisor.tasks.task": "TaskResult TaskStatus",
    "telemetry.binary_log": "open_binary_log",
    "telemetry.logs.formatters": "JsonFormatter TraceIdFilter",
    "telemetry.metrics": "Metrics",
    "telemetry.metrics.prometheus": "PrometheusCollector",
    "telemetry.traces": "Tracing",
    "telemetry.traces.pipeline": "export_traces",
    "util.backoff": "Backoff",
    "util.log_level": "LogLevel",
    "util.tls_config": "ClientTlsConfig ServerTlsConfig",
}
_HOMES = {name: (home, name) for home, names in _NAMES_OF_MODULES.items() for name in names.split()}
_HOMES |= {"load_config": ("config", "load"), "__version__": ("util.version", "VERSION")}
_MODULES = ("config", "contract", "errors", "mesh", "plugin", "stubs")

__all__ = sorted((*_HOMES, *_MODULES))


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return import_module(f"meshtrio.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'meshtrio' has no attribute {name!r}")
    home, original = _HOMES[name]
    found = globals()[name] = getattr(import_module(f"meshtrio.{home}"), original)
    return found


def __dir__() -> list[str]:
    return [*globals(), *__all__]
