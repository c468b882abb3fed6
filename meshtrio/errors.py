"""Errors a user of meshtrio can meet, beside the gRPC statuses of purerpc.

Each says whose fault it is: ConfigError and UsageError are the caller's own, NoMeshError,
CallRefusedError, ConnectionLostError and PluginDiedError are kinds of purerpc's UnavailableError,
so that code which knows gRPC only handles them all.
"""

from __future__ import annotations

import errno

import purerpc

from meshtrio.util.text import escape_unprintable_lines

RESOURCE_EXHAUSTED_ERRNOS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
"""Error numbers of the system that tell of this process's own want, not of another's fault."""


class MeshtrioError(Exception):
    """Root of the errors that are not the outcome of a call."""


class ConfigError(MeshtrioError):
    """A configuration was refused before anything was started."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UsageError(MeshtrioError):
    """meshtrio was asked for something that cannot be, with what to do instead."""


class UnknownNameError(UsageError):
    """A plugin, group or instance that the mesh does not have, with those it has."""


class MeshFailedError(MeshtrioError):
    """A plugin failed so often that its failure reached the mesh, which has stopped everything.

    `ended` is how it ended the last time, as a phrase; `groups` are those that failed with it,
    innermost first.
    """

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
        text = (
            f"plugin {plugin}/{instance} {exit_reason}, after {restarts} restarts within "
            f"{period:g} s"
        )
        if groups:
            text += f", and its groups could not help: {', '.join(groups)}"
        if stderr_tail:
            lines = "\n".join(f"  {line}" for line in stderr_tail)
            text += f"; the last it wrote to stderr:\n{lines}"
        # A traceback shows it on a terminal.
        super().__init__(escape_unprintable_lines(text))
        self.plugin = plugin
        self.instance = instance
        self.restarts = restarts
        self.groups = groups
        self.exit_reason = exit_reason
        self.stderr_tail = stderr_tail


class PluginFailedError(MeshtrioError):
    """A plugin did not come to what was asked of it; the text says how it ended."""


class NoMeshError(purerpc.UnavailableError):
    """No mesh answers on the mesh socket."""


class UntrustedMeshError(NoMeshError):
    """Another user could serve, or serves, in the place where a mesh is looked for by default."""


class CallRefusedError(purerpc.UnavailableError):
    """The call failed before any handler saw it, so it is safe to make it again.

    `reached_server` is False if the request never left this process. It is True if the server's
    library refused it: by REFUSED_STREAM, or by a GOAWAY with a lower last stream id (gRFC A6).
    """

    def __init__(self, message: str, *, reached_server: bool = True) -> None:
        super().__init__(message)
        self.reached_server = reached_server


class ConnectionLostError(purerpc.UnavailableError):
    """The connection broke during the call; whether the handler ran is not known."""


class PluginDiedError(ConnectionLostError):
    """The plugin's process ended during the call.

    `status` is its exit status or None, `signal` the signal that killed it or None,
    `stderr_tail` the last lines it wrote to stderr, `life` the word by which its mesh knew it.
    """

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
        self.exit_status = exit_status
        self.signal = signal
        self.stderr_tail = stderr_tail


def unwrap_exception_group(exc: BaseException) -> BaseException:
    """The one exception inside nested groups of one, or the group itself where it holds more."""
    while isinstance(exc, BaseExceptionGroup) and len(exc.exceptions) == 1:
        exc = exc.exceptions[0]
    return exc
