"""The exceptions of meshtrio, in addition to purerpc's, of which there is one per gRPC status.

Those that derive from `MeshtrioError` are not the outcome of a call: `ConfigError` and `UsageError`
are mistakes of the caller, `MeshFailedError` and `PluginFailedError` report failures of plugins.
Those that end a call derive from purerpc's `UnavailableError`, so that code which handles gRPC
statuses alone handles them:

    UnavailableError
        NoMeshError             no mesh answers on the mesh socket
            UntrustedMeshError  another user's process answers, or could
        CallRefusedError        no handler has seen the call: safe to retry
        ConnectionLostError     a handler may have seen it
            PluginDiedError     the same, with the exit status of the plugin's process
"""

from __future__ import annotations

import purerpc

from meshtrio.util.errors import ConfigError as ConfigError
from meshtrio.util.errors import MeshtrioError as MeshtrioError
from meshtrio.util.errors import UnknownNameError as UnknownNameError
from meshtrio.util.errors import UsageError as UsageError


class MeshFailedError(MeshtrioError):
    """A plugin's failure was escalated to the mesh, which has stopped all plugins."""

    def __init__(
        self,
        plugin: str,
        instance: int,
        restarts: int,
        period: float,
        groups: tuple[str, ...],
        exit_reason: str,
        stderr_tail: tuple[str, ...],
    ) -> None:
        text = f"plugin {plugin}/{instance} {exit_reason}, after {restarts} restarts"
        text += f" within {period:g} s"
        if groups:
            text += f"; escalated through groups {', '.join(groups)}"
        if stderr_tail:
            lines = "\n".join(f"  {line}" for line in stderr_tail)
            text += f"; last lines of stderr:\n{lines}"
        # Only a mesh makes it.
        from meshtrio.util.text import escape_unprintable_lines

        # Tracebacks are shown on terminals.
        super().__init__(escape_unprintable_lines(text))
        self.plugin = plugin
        """Name of the plugin."""
        self.instance = instance
        """Number of the plugin's instance."""
        self.restarts = restarts
        """Number of times that the instance was restarted before the mesh gave up."""
        self.groups = groups
        """Groups through which the failure was escalated, innermost first."""
        self.exit_reason = exit_reason
        """How the instance ended the last time, as a phrase: "exited with status 3"."""
        self.stderr_tail = stderr_tail
        """The last lines that the instance wrote to stderr."""


class PluginFailedError(MeshtrioError):
    """A plugin did not start, or its replacement did not; the text says why."""


class NoMeshError(purerpc.UnavailableError):
    """No mesh answers on the mesh socket."""


class UntrustedMeshError(NoMeshError):
    """Another user serves, or could serve, on the default mesh socket."""


class CallRefusedError(purerpc.UnavailableError):
    """The call failed before any handler saw it, so it is safe to make it again.

    `reached_server` is False if the request never left this process. It is True if the server's
    library refused it: by REFUSED_STREAM, or by a GOAWAY with a lower last stream id (gRFC A6).
    """

    def __init__(self, message: str, *, reached_server: bool = True) -> None:
        super().__init__(message)
        self.reached_server = reached_server


class ConnectionLostError(purerpc.UnavailableError):
    """The connection was lost during the call; whether a handler saw it is unknown."""


class PluginDiedError(ConnectionLostError):
    """The plugin's process ended during the call."""

    def __init__(
        self,
        message: str,
        *,
        exit_status: int | None,
        signal: int | None,
        stderr_tail: tuple[str, ...],
        launch_id: str = "",
    ) -> None:
        super().__init__(message)
        self.launch_id = launch_id
        """MESH_LAUNCH_ID of the process; empty if it is unknown."""
        self.exit_status = exit_status
        """Exit status of the process; None if a signal killed it or the status is unknown."""
        self.signal = signal
        """Number of the signal that killed the process; None if none did."""
        self.stderr_tail = stderr_tail
        """The last lines that the process wrote to stderr."""
