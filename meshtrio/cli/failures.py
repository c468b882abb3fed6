"""What a failure is told as: one line a mistake, and the exit status."""

from __future__ import annotations

import errno
import os

import click
import purerpc

from meshtrio.cli.details import CallFailedError
from meshtrio.errors import ConfigError, MeshFailedError, MeshtrioError, NoMeshError, unwrap
from meshtrio.texts import visible

_PLAIN = frozenset({"NOT_FOUND", "FAILED_PRECONDITION", "ABORTED", "PERMISSION_DENIED"})
"""Statuses of the mesh's own services whose text says it all."""


_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO})


class RefusedError(Exception):
    """A mesh did not do what it was asked to, with the status it gave."""

    def __init__(self, status: purerpc.Status) -> None:
        super().__init__(status.status_message)
        self.status = status


def explain(exc: Exception) -> tuple[int, list[str]]:
    """The exit status and what goes to stderr. Raises it again where nobody foresaw it."""
    found = unwrap(exc)
    if isinstance(found, click.ClickException):
        return found.exit_code, _usage(found)
    if isinstance(found, ConfigError):
        return 2, _lines(*found.problems)
    if isinstance(found, RefusedError):
        return _refused(found.status)
    if isinstance(found, CallFailedError):
        details = (f"  {visible(text)}" for text in found.details)
        return 1, [*_lines(_in_full(found.status)), *details]
    if isinstance(found, MeshFailedError):
        return 1, _lines(str(found), apart=False)
    if isinstance(found, MeshtrioError):
        return 2, _lines(str(found))
    if isinstance(found, NoMeshError):
        return 1, _lines(found.status.status_message)
    if isinstance(found, purerpc.RpcFailedError):
        return 1, _lines(_in_full(found.status))
    if isinstance(found, OSError) and (text := _trouble_of_system(found)):
        return 1, _lines(text)
    raise exc


def _trouble_of_system(exc: OSError) -> str:
    """What can be wrong with where a command is run; "" for anything else."""
    if exc.errno in _NO_ROOM:
        return f"stdout cannot be written to: {exc.strerror}"
    if exc.errno == errno.ENOENT and not _has_current_folder():
        return "the current folder has been removed; change to one that is there"
    return ""


def _has_current_folder() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _usage(exc: click.ClickException) -> list[str]:
    context = getattr(exc, "ctx", None)
    text = exc.format_message()
    if context is None or "\n" in text:
        # The help itself, where no command was given.
        return _lines(text) if context is None else [visible(line) for line in text.split("\n")]
    text = text if text.endswith((".", "?")) else f"{text}."
    return _lines(f"{text} See `{context.command_path} --help`")


def _refused(status: purerpc.Status) -> tuple[int, list[str]]:
    name = status.status_code.name
    if name == "INVALID_ARGUMENT":
        # A config that cannot be: the mesh tells every mistake of it.
        return 2, _lines(status.status_message)
    return 1, _lines(visible(status.status_message) if name in _PLAIN else _in_full(status))


def _in_full(status: purerpc.Status) -> str:
    # A newline in it starts no line of ours.
    return visible(f"{status.status_code.name}: {status.status_message}")


def _lines(*texts: str, apart: bool = True) -> list[str]:
    """`apart`: each line is a mistake of its own, and is marked as ours."""
    lines = [visible(line) for text in texts for line in text.split("\n")]
    if not apart:
        lines = ["\n".join(lines)]
    return [f"meshtrio: {line}" for line in lines if line or not apart]
