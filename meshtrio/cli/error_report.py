"""Error reports: one line per error, and the exit status."""

from __future__ import annotations

import errno
import os

import click
import purerpc

from meshtrio.errors import MeshFailedError, NoMeshError
from meshtrio.util.errors import MeshtrioError, unwrap_exception_group
from meshtrio.util.text import escape_unprintable, escape_unprintable_lines

_SELF_EXPLANATORY_STATUSES = frozenset(
    {"NOT_FOUND", "FAILED_PRECONDITION", "ABORTED", "PERMISSION_DENIED"}
)
"""Statuses of the mesh's own services whose messages need no status name in front."""
_WRITE_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


class MeshRequestError(Exception):
    """A request to the mesh's own services failed."""

    def __init__(self, status: purerpc.Status) -> None:
        super().__init__(status.status_message)
        self.status = status


def describe_error(exc: Exception) -> tuple[int, list[str]]:
    """Return the exit status and the lines for stderr. Re-raise an error that is not expected."""
    found = unwrap_exception_group(exc)
    if isinstance(found, click.ClickException):
        return found.exit_code, _describe_usage_error(found)
    if isinstance(found, MeshRequestError):
        return _describe_mesh_request_error(found.status)
    if isinstance(found, MeshFailedError):
        return 1, [f"meshtrio: {escape_unprintable_lines(str(found))}"]
    if isinstance(found, MeshtrioError):
        return 2, _format_error_lines(str(found))
    if isinstance(found, NoMeshError):
        return 1, _format_error_lines(found.status.status_message)
    if isinstance(found, purerpc.RpcFailedError):
        notes = (f"  {escape_unprintable(note)}" for note in getattr(found, "__notes__", ()))
        return 1, [*_format_error_lines(_format_status(found.status)), *notes]
    if isinstance(found, OSError) and (text := _describe_os_error(found)):
        return 1, _format_error_lines(text)
    raise exc


def _describe_os_error(exc: OSError) -> str:
    """Describe errors of a command's surroundings, such as a full disk; "" for any other error."""
    if exc.errno in _WRITE_ERRNOS:
        return f"cannot write to stdout: {exc.strerror}"
    if exc.errno == errno.ENOENT:
        try:
            os.getcwd()
        except FileNotFoundError:
            return "the current folder has been removed; change to another"
    return ""


def _describe_usage_error(exc: click.ClickException) -> list[str]:
    context = getattr(exc, "ctx", None)
    text = exc.format_message()
    if context is None:
        return _format_error_lines(text)
    if "\n" in text:
        # The help text, if no command was given.
        return [escape_unprintable(line) for line in text.split("\n")]
    text = text if text.endswith((".", "?")) else f"{text}."
    return _format_error_lines(f"{text} See `{context.command_path} --help`")


def _describe_mesh_request_error(status: purerpc.Status) -> tuple[int, list[str]]:
    name, message = status.status_code.name, status.status_message
    if name == "INVALID_ARGUMENT":
        # A rejected config: one line for each mistake.
        return 2, _format_error_lines(message)
    explains = name in _SELF_EXPLANATORY_STATUSES
    return 1, _format_error_lines(
        escape_unprintable(message) if explains else _format_status(status)
    )


def _format_status(status: purerpc.Status) -> str:
    # A newline in the message must not start a line.
    return escape_unprintable(f"{status.status_code.name}: {status.status_message}")


def _format_error_lines(text: str) -> list[str]:
    """Prefix and escape a text, each line of which is an error of its own."""
    return [f"meshtrio: {escape_unprintable(line)}" for line in text.split("\n") if line]
