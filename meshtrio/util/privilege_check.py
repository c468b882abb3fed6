"""Detects programs that change user or privileges when they are executed (execve(2)).

A mesh without the right to signal processes of other users can neither stop nor kill such a
program.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat

from meshtrio.util.executable_check import MAX_INTERPRETER_DEPTH, MAX_SHEBANG_SIZE, Program
from meshtrio.util.processes import ProcessInfo
from meshtrio.util.regular_files import open_regular_file
from meshtrio.util.text import replace_surrogates

_CAPABILITIES_XATTR = "security.capability"
_CAP_KILL = 5


def describe_privilege_change(program: Program) -> str:
    """Return a warning if a program gains privileges that this process lacks, else "".

    For scripts the interpreter is examined. A program that it starts in turn, such as by sudo(8),
    is not.
    """
    own = ProcessInfo("self")
    can_kill = own.capabilities >> _CAP_KILL & 1 if own.is_alive else os.geteuid() == 0
    if can_kill or own.has_no_new_privileges:
        return ""
    found = (path for path in program.candidates() if os.access(path, os.X_OK))
    try:
        path = _resolve_binary(next(found))
        change = _privilege_change(path) if path else ""
    except (StopIteration, OSError):
        return ""  # The program does not exist, or cannot be read.
    if not change:
        return ""
    return replace_surrogates(
        f"{path!r} {change}: a mesh that does not run as root may not be able to signal it, and "
        "then it cannot be stopped or killed, and is left running"
    )


def _resolve_binary(path: str) -> str:
    """Return the binary that is executed: the interpreter if the program is a script."""
    for _ in range(MAX_INTERPRETER_DEPTH):
        try:
            with open(open_regular_file(path), "rb") as file:
                head = file.read(MAX_SHEBANG_SIZE)
        except PermissionError:
            return path  # Not a script: its interpreter could not read it either.
        words = head[2:].partition(b"\n")[0].split(maxsplit=1) if head[:2] == b"#!" else []
        if not words:
            return path
        path = os.fsdecode(words[0])
    return ""


def _privilege_change(path: str) -> str:
    """Describe how executing a binary changes user, group or capabilities; "" if it does not."""
    status = os.stat(path)
    if os.statvfs(path).f_flag & os.ST_NOSUID:
        return ""
    if status.st_mode & stat.S_ISUID and status.st_uid != os.geteuid():
        return f"is set-user-ID: it runs as {_user_name(status.st_uid)}"
    changes_group = status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IXGRP
    if changes_group and status.st_gid != os.getegid():
        return "is set-group-ID"
    return "has file capabilities" if _has_capabilities(path) else ""


def _has_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, _CAPABILITIES_XATTR))
    except OSError as exc:
        return exc.errno not in (errno.ENODATA, errno.ENOTSUP)


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
