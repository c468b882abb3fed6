"""What a mesh and its plugins agree on beside gRPC. A plugin in any language may rely on it."""

PLUGIN_SOCKET = "PLUGIN_SOCKET"
"""The path of the Unix socket to bind and to serve on."""
PLUGIN_LISTEN = "PLUGIN_LISTEN"
"""Where it is to serve instead, if it is set: "tcp:host:port"."""
PLUGIN_TLS_CERTIFICATE = "PLUGIN_TLS_CERTIFICATE"
"""The path of a PEM file, if it is to speak TLS there."""
PLUGIN_TLS_KEY = "PLUGIN_TLS_KEY"
"""The path of its key."""
PLUGIN_TLS_CLIENT_CA = "PLUGIN_TLS_CLIENT_CA"
"""The path of a PEM file, if it is to ask clients for certificates that this has signed."""
PLUGIN_NAME = "PLUGIN_NAME"
"""The plugin's name in the config."""
PLUGIN_INSTANCE = "PLUGIN_INSTANCE"
"""Which of its instances it is: 0, 1, …"""
MESH_SOCKET = "MESH_SOCKET"
"""The path of the mesh's own socket, for calls to other plugins."""
PLUGIN_STOP_TIMEOUT = "PLUGIN_STOP_TIMEOUT"
"""Seconds from SIGTERM to SIGKILL."""
PLUGIN_METRICS = "PLUGIN_METRICS"
"""Set where it is to measure its calls: "mesh", which asks for them by meshtrio.v1.Metrics, or the
host:port on which it is to expose them itself."""
METRICS_FROM_MESH = "mesh"
PLUGIN_METRICS_EXPERIMENTAL = "PLUGIN_METRICS_EXPERIMENTAL"
"""Set to 1 where it is to measure what gRPC has off by default, too."""
GRPC_BINARY_LOG_FILTER = "GRPC_BINARY_LOG_FILTER"
"""gRPC's own variable, which other implementations go by as well: the calls that are written to a
binary log (gRFC A16). A plugin's `env` may set it."""
PLUGIN_BINARY_LOG_FOLDER = "PLUGIN_BINARY_LOG_FOLDER"
"""The folder it is to write its binary log to."""
PLUGIN_BINARY_LOG_SIZE = "PLUGIN_BINARY_LOG_SIZE"
"""Bytes that one file of its binary log may have."""
PLUGIN_BINARY_LOG_FILES = "PLUGIN_BINARY_LOG_FILES"
"""How many files of its binary log it is to keep."""
MESH_LAUNCH_ID = "MESH_LAUNCH_ID"
"""A word that no two processes of a mesh are started with; what they start inherits it."""
MESH_ID = "MESH_ID"
"""A random word for each start of a mesh. What has inherited it is killed by the mesh's warden, or
by the next mesh in its runtime dir, see [what ends with a plugin](../how-to/processes.md)."""
MESH_PIDFD = "MESH_PIDFD"
"""The number of an inherited descriptor, a pidfd of the mesh's process. It is readable once that
has ended, however it did. Plugins made with meshtrio stop then; those in other languages may poll
it for the same."""
PLUGIN_LOG_LEVEL = "PLUGIN_LOG_LEVEL"
"""From which level on it is to log, if that is said: "debug", "info", "warning" or "error"."""
PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH = "PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH"
"""Bytes of the longest message that it is to accept, -1 for no limit, if the config says so."""
PLUGIN_MAX_SEND_MESSAGE_LENGTH = "PLUGIN_MAX_SEND_MESSAGE_LENGTH"
"""Bytes of the longest message that it is to send, -1 for no limit, if the config says so."""
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
"""The variables by which systemd talks to the process that it has started, which is the mesh: a
plugin that used them would speak in the mesh's name. Plugins get them only if their `inherit_env`
or `env` names them."""

TARGET_METADATA_KEY = "x-mesh-target"
"""Metadata key: the service that a call on a mesh socket is for. It goes on with the call, since
that may be to the gateway of another mesh."""
FORWARDED_METADATA_KEY = "x-mesh-forwarded"
"""Metadata key: for whom a gateway passes a call on, with commas between gateways."""

BINARY_LOG_DIRECTORY = "binlog"
"""The folder of binary logs in a runtime dir, where the config names no other."""
MAX_SOCKET_PATH_LENGTH = 107
"""Bytes; a longer one does not fit the kernel's sockaddr_un."""

MAX_LINE_LENGTH = 8 * 1024
"""Bytes of a line of output that a mesh keeps; the rest of the line is counted and dropped."""

DRAIN_CUT_CALL = '{"meshtrio": "cut", "path": '
"""What a line of a plugin's stderr begins with that reports a call which was cut when the plugin
drained; the path follows as JSON, and a closing brace. The mesh keeps these lines to itself."""
DRAIN_DONE = '{"meshtrio": "drained"}'
"""The line that ends such a report: no other call was cut. Without it what was cut is not known."""
