"""The contract of a mesh and its plugins, beyond gRPC. Plugins in any language rely on it."""

PLUGIN_SOCKET = "PLUGIN_SOCKET"
"""Path of the Unix socket that the plugin binds and serves on."""
PLUGIN_LISTEN = "PLUGIN_LISTEN"
"""Address to serve on instead of PLUGIN_SOCKET, if set: "tcp:host:port"."""
PLUGIN_TLS_CERTIFICATE = "PLUGIN_TLS_CERTIFICATE"
"""Path of a PEM file with the certificate chain, if the plugin is to serve TLS."""
PLUGIN_TLS_KEY = "PLUGIN_TLS_KEY"
"""Path of the PEM file with the private key of PLUGIN_TLS_CERTIFICATE."""
PLUGIN_TLS_CLIENT_CA = "PLUGIN_TLS_CLIENT_CA"
"""Path of a PEM file with the CA of client certificates, if they are required."""
PLUGIN_NAME = "PLUGIN_NAME"
"""Name of the plugin in the config."""
PLUGIN_INSTANCE = "PLUGIN_INSTANCE"
"""Number of the instance: 0, 1, …"""
MESH_SOCKET = "MESH_SOCKET"
"""Path of the mesh's own socket, for calls to other plugins."""
PLUGIN_STOP_TIMEOUT = "PLUGIN_STOP_TIMEOUT"
"""Seconds from SIGTERM to SIGKILL."""
PLUGIN_METRICS = "PLUGIN_METRICS"
"""Set if the plugin is to measure its calls: "mesh" if the mesh collects the metrics by
meshtrio.v1.Metrics, or the host:port to expose them on."""
METRICS_FROM_MESH = "mesh"
"""Value of PLUGIN_METRICS: the mesh collects the metrics."""
PLUGIN_METRICS_EXPERIMENTAL = "PLUGIN_METRICS_EXPERIMENTAL"
"""Set to 1 to enable the metrics that gRPC disables by default."""
GRPC_BINARY_LOG_FILTER = "GRPC_BINARY_LOG_FILTER"
"""The calls that are written to a binary log (gRFC A16). gRPC's own variable, which other
implementations use as well; a plugin's `env` may set it."""
PLUGIN_BINARY_LOG_FOLDER = "PLUGIN_BINARY_LOG_FOLDER"
"""Directory of the plugin's binary log."""
PLUGIN_BINARY_LOG_SIZE = "PLUGIN_BINARY_LOG_SIZE"
"""Maximum size of a file of the binary log, in bytes."""
PLUGIN_BINARY_LOG_FILES = "PLUGIN_BINARY_LOG_FILES"
"""Maximum number of files of the binary log."""
MESH_LAUNCH_ID = "MESH_LAUNCH_ID"
"""Random id of the process run, which all that the process starts inherits."""
MESH_ID = "MESH_ID"
"""Random id of the run of the mesh. Processes that inherit it are killed by the mesh's warden, or
by the next mesh in its runtime dir, see [what ends with a plugin](../how-to/processes.md)."""
MESH_PIDFD = "MESH_PIDFD"
"""Number of an inherited descriptor: a pidfd of the mesh's process, readable once that has ended.
Plugins made with meshtrio stop then; plugins in other languages may poll it for the same
purpose."""
PLUGIN_LOG_LEVEL = "PLUGIN_LOG_LEVEL"
"""Level from which on the plugin is to log, if the config sets one: "debug", "info", "warning" or
"error"."""
PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH = "PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH"
"""Maximum length of received messages, in bytes, -1 for no limit, if the config sets it."""
PLUGIN_MAX_SEND_MESSAGE_LENGTH = "PLUGIN_MAX_SEND_MESSAGE_LENGTH"
"""Maximum length of sent messages, in bytes, -1 for no limit, if the config sets it."""
MESH_VARIABLES = frozenset(
    {
        PLUGIN_SOCKET,
        PLUGIN_LISTEN,
        PLUGIN_TLS_CERTIFICATE,
        PLUGIN_TLS_KEY,
        PLUGIN_TLS_CLIENT_CA,
        PLUGIN_STOP_TIMEOUT,
        PLUGIN_METRICS,
        PLUGIN_METRICS_EXPERIMENTAL,
        PLUGIN_LOG_LEVEL,
        PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH,
        PLUGIN_MAX_SEND_MESSAGE_LENGTH,
        PLUGIN_BINARY_LOG_FOLDER,
        PLUGIN_BINARY_LOG_SIZE,
        PLUGIN_BINARY_LOG_FILES,
        MESH_LAUNCH_ID,
        MESH_ID,
        MESH_PIDFD,
        PLUGIN_NAME,
        PLUGIN_INSTANCE,
        MESH_SOCKET,
    }
)
"""The variables that the mesh sets."""

SERVICE_MANAGER_VARIABLES = frozenset(
    {
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "LISTEN_PID",
        "LISTEN_PIDFDID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
    }
)
"""The variables of systemd's protocols with the process that it has started, which is the mesh: a
plugin that used them would act as the mesh. Plugins get them only if their `inherit_env` or `env`
names them."""

TARGET_METADATA_KEY = "x-mesh-target"
"""Metadata key: the service that a call on a mesh socket is for. It is forwarded with the call,
whose destination may be the gateway of another mesh."""
FORWARDED_METADATA_KEY = "x-mesh-forwarded"
"""Metadata key: the clients that a call was forwarded for, one for each gateway,
comma-separated."""

BINARY_LOG_DIRECTORY = "binlog"
"""Default directory of binary logs, in the runtime dir."""
MAX_SOCKET_PATH_LENGTH = 107
"""Maximum length of a socket's path, in bytes (`sockaddr_un`, unix(7))."""

MAX_LINE_LENGTH = 8 * 1024
"""Maximum length of a line of output, in bytes. The rest of a longer line is counted and
dropped."""

DRAIN_CUT_CALL = '{"meshtrio": "cut", "path": '
"""Prefix of a line on stderr that reports a call which the drain has cut; the path follows as JSON,
and a closing brace. The mesh does not log these lines."""
DRAIN_DONE = '{"meshtrio": "drained"}'
"""The line on stderr that ends the report of a drain. Without it, which calls were cut is
unknown."""
