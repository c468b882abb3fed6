"""The contract between a mesh and its plugins, in addition to gRPC: for plugins in any language."""

PLUGIN_SOCKET = "PLUGIN_SOCKET"
"""Path of the Unix socket that the plugin binds and serves on, or has inherited (`listen_fds`)."""
PLUGIN_LISTEN = "PLUGIN_LISTEN"
"""The TCP address to serve on instead, as "tcp:host:port"; set for plugins that listen on TCP."""
PLUGIN_TLS_CERTIFICATE = "PLUGIN_TLS_CERTIFICATE"
"""The path of the PEM file with its certificate chain; set if it has to serve with TLS."""
PLUGIN_TLS_KEY = "PLUGIN_TLS_KEY"
"""The path of the PEM file with the private key of PLUGIN_TLS_CERTIFICATE."""
PLUGIN_TLS_CLIENT_CA = "PLUGIN_TLS_CLIENT_CA"
"""The path of a PEM file with certificate authorities; set if it has to require certificates of
clients that these have signed."""
PLUGIN_NAME = "PLUGIN_NAME"
"""Name of the plugin, or of the task, in the config."""
PLUGIN_INSTANCE = "PLUGIN_INSTANCE"
"""The number of the instance: 0, 1, …"""
MESH_SOCKET = "MESH_SOCKET"
"""Path of the mesh's own socket, for calls to other plugins."""
PLUGIN_STOP_TIMEOUT = "PLUGIN_STOP_TIMEOUT"
"""Seconds from SIGTERM to SIGKILL."""
PLUGIN_METRICS = "PLUGIN_METRICS"
"""Where the metrics of its calls are exported; set if it has to measure them. Either "mesh", which
collects them by meshtrio.v1.Metrics, or the host:port on which the plugin exposes them itself."""
METRICS_FROM_MESH = "mesh"
"""The value of PLUGIN_METRICS with which the mesh collects metrics."""
PLUGIN_METRICS_EXPERIMENTAL = "PLUGIN_METRICS_EXPERIMENTAL"
"""Set to 1 if it has to measure the metrics that gRPC disables by default, too."""
GRPC_BINARY_LOG_FILTER = "GRPC_BINARY_LOG_FILTER"
"""The filter of the calls that are written to a binary log (gRFC A16). This is gRPC's own variable,
which other implementations support as well. A plugin's `env` may set it."""
PLUGIN_BINARY_LOG_FOLDER = "PLUGIN_BINARY_LOG_FOLDER"
"""The directory of its binary log."""
PLUGIN_BINARY_LOG_SIZE = "PLUGIN_BINARY_LOG_SIZE"
"""Maximum size of one file of its binary log, in bytes."""
PLUGIN_BINARY_LOG_FILES = "PLUGIN_BINARY_LOG_FILES"
"""Maximum number of files of its binary log."""
MESH_LAUNCH_ID = "MESH_LAUNCH_ID"
"""The unique id of the process run. What the process starts inherits it."""
MESH_ID = "MESH_ID"
"""The random id of the run of the mesh. Processes that have inherited it are killed by the mesh's
warden, or by the next mesh in its runtime dir, see
[what ends with a plugin](../how-to/processes.md)."""
MESH_PIDFD = "MESH_PIDFD"
"""The number of an inherited descriptor, a pidfd of the mesh's process. It becomes readable when
the mesh has exited for any reason. Plugins made with meshtrio stop then; those in other languages
may poll it for the same purpose."""
PLUGIN_LOG_LEVEL = "PLUGIN_LOG_LEVEL"
"""Its log level, if the config sets one: "debug", "info", "warning" or "error"."""
PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH = "PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH"
"""Maximum length of received messages in bytes, -1 for no limit; set if the config sets it."""
PLUGIN_MAX_SEND_MESSAGE_LENGTH = "PLUGIN_MAX_SEND_MESSAGE_LENGTH"
"""Maximum length of sent messages in bytes, -1 for no limit; set if the config sets it."""
PLUGIN_MAX_CONNECTION_AGE = "PLUGIN_MAX_CONNECTION_AGE"
"""Seconds after which it drains a connection, "inf" for never; set if the config sets it."""
PLUGIN_MAX_CONNECTION_AGE_GRACE = "PLUGIN_MAX_CONNECTION_AGE_GRACE"
"""Seconds from then on after which it ends the calls of the connection, "inf" for never; set if the
config sets it."""
PLUGIN_IDLE_TIMEOUT = "PLUGIN_IDLE_TIMEOUT"
"""Seconds without a call after which it is to write the line `{"meshtrio": "idle"}` to stderr, and
after each further such time; set if the config sets it. The mesh then stops it until it is needed.
"""
MESHTRIO_BUSY_POLL = "MESHTRIO_BUSY_POLL"
"""Maximum time of busy polling in a process that uses meshtrio, such as "500us" or "0.5ms"; "off"
for none. Set if the plugin's config sets `max_busy_poll`, else inherited; anyone may set it."""
# The constant of a variable has its own name as its value.
MESH_VARIABLES = frozenset(
    name
    for name, value in tuple(globals().items())
    if name == value and not name.startswith(("GRPC_", "MESHTRIO_"))
)
"""All variables that only the mesh sets."""

SERVICE_MANAGER_VARIABLES = frozenset(
    {
        *("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"),
        *("LISTEN_PID", "LISTEN_PIDFDID", "LISTEN_FDS", "LISTEN_FDNAMES"),
    }
)
"""Variables that systemd sets for the process that it starts, which is the mesh. A plugin that used
them would report to systemd as the mesh. `meshtrio serve` removes them from its environment. A
program that embeds a mesh has them, and plugins get them only if their `inherit_env` or `env` names
them. NOTIFY_SOCKET and WATCHDOG_USEC are the mesh's own for plugins that notify it."""

TARGET_METADATA_KEY = "x-mesh-target"
"""Metadata key whose value is the target service of a call on a mesh socket. It is forwarded with
the call, since its target may be the gateway of another mesh."""
FORWARDED_METADATA_KEY = "x-mesh-forwarded"
"""Metadata key whose value is the original caller of a forwarded call; each gateway appends to it,
separated by commas."""

BINARY_LOG_DIRECTORY = "binlog"
"""The name of the directory of binary logs in a runtime dir, unless the config sets another."""
MAX_SOCKET_PATH_LENGTH = 107
"""Maximum length of a socket's path in bytes, given by the kernel's sockaddr_un."""

MAX_LINE_LENGTH = 8 * 1024
"""Maximum number of bytes that a mesh keeps of a line of output; the rest is counted, not kept."""

DRAIN_CUT_CALL = '{"meshtrio": "cut", "path": '
"""Prefix of a line of a plugin's stderr that reports a call which was aborted when it drained. The
path follows as JSON, and a closing brace. The mesh does not log these lines."""
IDLE = '{"meshtrio": "idle"}'
"""The line on a plugin's stderr that reports that it has had no calls for PLUGIN_IDLE_TIMEOUT. The
mesh does not log it."""
DRAIN_DONE = '{"meshtrio": "drained"}'
"""The line that ends such a report: no other call was aborted. Without it the report is partial."""
