"""Predicts whether the kernel can execute a program, without executing it (execve(2), elf(5)).

`explain_not_executable` returns what is wrong, and what to do. It is conservative: if the kernel
might succeed, or a file cannot be read, it reports nothing. A program may still fail to start.
`describe_privilege_change` detects programs that change user or privileges when they are executed:
a mesh without the right to signal processes of other users can neither stop nor kill them.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import BinaryIO

import attrs

from meshtrio.util.descriptors import open_regular_file
from meshtrio.util.processes import ProcessInfo
from meshtrio.util.text import replace_surrogates
from meshtrio.util.users import find_user_name

MAX_SHEBANG_SIZE = 256
"""Bytes of a file that the kernel reads to determine its format (BINPRM_BUF_SIZE)."""
MAX_INTERPRETER_DEPTH = 5
"""Maximum number of scripts that are interpreters of one another."""
_ELF_MAGIC = b"\x7fELF"
_PT_INTERP, _MAX_SEGMENTS, _MAX_PATH = 3, 1024, 4096
_ELF_LAYOUTS = {1: ("I", 28, 42, "II8xI"), 2: ("Q", 32, 54, "I4xQ16xQ")}
"""By class (32 or 64 bits), the type and the offset of the position of the segment table, the
offset of the size and number of its entries, and what an entry begins with: the kind of a segment,
its offset in the file and its length."""
_CAPABILITIES_XATTR = "security.capability"
_CAP_KILL = 5
_INTERPRETER_HINT = 'name its interpreter in the command, as in ["python3", "plugin.py"]'


@attrs.frozen
class Program:
    """A program by its name, and what it is looked up and executed with."""

    name: str
    cwd: str
    path: str
    """The variable PATH."""
    is_other_user: bool = False
    """Whether another user executes it."""

    def candidates(self) -> Iterator[str]:
        """Yield the paths that the name may refer to, in the order of execvp(3)."""
        folders = [""] if "/" in self.name else self.path.split(os.pathsep)
        return (os.path.join(self.cwd, folder, self.name) for folder in folders)


def explain_not_executable(program: Program) -> str:
    """Return why a program cannot be executed; "" if no reason is found.

    The text names the file, the reason, and what to do.
    """
    return replace_surrogates(_check_cwd(program) or _check_program(program))


def _check_cwd(program: Program) -> str:
    cwd = program.cwd
    if not os.path.exists(cwd):
        return f"its cwd {cwd!r} is not there: make it, or set another `cwd`"
    if not os.path.isdir(cwd):
        return f"its cwd {cwd!r} is not a folder: set another `cwd`"
    if not program.is_other_user and not os.access(cwd, os.X_OK):
        return f"its cwd {cwd!r} may not be entered by this user"
    return ""


def _check_program(program: Program, referrer: str = "", depth: int = 1) -> str:
    """Check a program; `referrer` names what refers to it, such as "the #! line of x"."""
    by = f", which {referrer} names," if referrer else ""
    path = _resolve_program(program)
    if path is None and "/" not in program.name:
        return f"{program.name!r}{by} is not on the PATH{': install it' if by else ''}"
    if path is None:
        path = next(program.candidates())
        return f"{path!r}{by} {_explain_missing(path)}"
    subject = f"{path!r}{by}"
    if problem := _check_permission(path):
        return f"{subject} {problem}"
    with suppress(OSError), open(open_regular_file(path), "rb") as file:
        head = file.read(MAX_SHEBANG_SIZE)
        if head.startswith(b"#!"):
            return _check_script(path, head, program, subject, depth)
        if head.startswith(_ELF_MAGIC):
            problem = _check_elf(file)
        elif b"\0" not in head:
            problem = _check_text(head)
    # A file that cannot be read may be executable all the same.
    return problem and f"{subject} {problem}"


def _resolve_program(program: Program) -> str | None:
    """Return the path that would be executed, else the first that exists; None if none does."""
    existing = None
    for path in program.candidates():
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
        if os.path.lexists(path) and ("/" in program.name or not os.path.isdir(path)):
            existing = existing or path
    return existing


def _explain_missing(path: str) -> str:
    try:
        os.lstat(path)
    except PermissionError:
        return "cannot be reached: a folder on the way to it may not be entered"
    except NotADirectoryError:
        return "is not there: a part of its path is a file, not a folder"
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            return f"cannot be reached: {exc.strerror}"
    except ValueError:
        return "has a null byte in its path"
    return "is not there"


def _check_permission(path: str) -> str:
    try:
        status = os.stat(path)
    except OSError as exc:
        if not os.path.islink(path):
            return ""
        target = os.readlink(path)
        return f"is a symbolic link to {target!r}, which cannot be reached: {exc.strerror}"
    if stat.S_ISDIR(status.st_mode):
        return "is a folder, not a program"
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if not status.st_mode & 0o111:
        return f"has no execute permission: chmod +x it, or {_INTERPRETER_HINT}"
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        return (
            f"is on a filesystem that is mounted noexec ({_mount_point(path)}): move it to another "
            f"one, or {_INTERPRETER_HINT}"
        )
    return "" if os.access(path, os.X_OK) else "may not be executed by this user: see its mode"


def _mount_point(path: str) -> str:
    folder = Path(os.path.realpath(path)).parent
    while not os.path.ismount(folder):
        folder = folder.parent
    return str(folder)


def _check_script(path: str, head: bytes, script: Program, subject: str, depth: int) -> str:
    """Check the #! line of a script, its interpreter, and the program that env(1) runs."""
    line, newline, _ = head[2:].partition(b"\n")
    if line.endswith(b"\r"):
        return (
            f"{subject} has a #! line that ends with CR LF, as on Windows, and the CR counts as "
            f"part of the name: convert it, as with sed -i 's/\\r$//' {path!r}"
        )
    words = line.split(maxsplit=1)
    if not words:
        return f"{subject} has a #! line that names no interpreter"
    if not newline and len(words) == 1 and len(head) == MAX_SHEBANG_SIZE:
        return (
            f"{subject} has a #! line whose interpreter has a longer path than the kernel takes "
            f"({MAX_SHEBANG_SIZE} bytes for the line): use a shorter path, or /usr/bin/env"
        )
    if depth >= MAX_INTERPRETER_DEPTH:
        return f"{subject} is one of too many scripts that run one another"
    interpreter, *arguments = map(os.fsdecode, words)
    name = interpreter if "/" in interpreter else f"./{interpreter}"
    programs = filter(None, (name, _env_program(interpreter, arguments)))
    by = f"the #! line of {path!r}"
    found = (_check_program(attrs.evolve(script, name=x), by, depth + 1) for x in programs)
    return next(filter(None, found), "")


def _env_program(interpreter: str, arguments: list[str]) -> str:
    """Return the program that env(1) runs in a #! line; "" if that is not evident."""
    if os.path.basename(interpreter) != "env" or not arguments:
        return ""
    # The kernel passes all of it as one argument, which -S splits.
    words = arguments[0].split()
    if words[:1] == ["-S"]:
        words = words[1:]
    elif len(words) > 1:
        return ""
    plain = bool(words) and not words[0].startswith("-") and not set(words[0]) & set("='\"\\$#")
    return words[0] if plain else ""


def _check_elf(file: BinaryIO) -> str:
    machine, loader = _read_elf_header(file)
    # A binary of another architecture may be run by an emulator.
    is_native = machine != 0 and machine == _interpreter_machine()
    if not is_native or not loader or os.path.exists(loader):
        return ""
    what = "it was built for another distribution or C library"
    return f"needs the loader {loader!r}, which is not there: {what}"


def _read_elf_header(file: BinaryIO) -> tuple[int, str]:
    """Return the architecture of a file, 0 if it is malformed, and its loader, "" for none."""
    file.seek(0)
    head = file.read(64)
    with suppress(struct.error, IndexError, KeyError, OverflowError, ValueError):
        order = {1: "<", 2: ">"}[head[5]]
        position, position_at, size_at, entry = _ELF_LAYOUTS[head[4]]
        (machine,) = struct.unpack_from(f"{order}H", head, 18)
        (table,) = struct.unpack_from(f"{order}{position}", head, position_at)
        size, count = struct.unpack_from(f"{order}2H", head, size_at)
        segment = struct.Struct(f"{order}{entry}")
        for number in range(min(count, _MAX_SEGMENTS)):
            file.seek(table + number * size)
            kind, offset, length = segment.unpack(file.read(segment.size))
            if kind == _PT_INTERP:
                file.seek(offset)
                name = file.read(min(length, _MAX_PATH)).partition(b"\0")[0]
                return machine, os.fsdecode(name)
        return machine, ""
    return 0, ""


@cache
def _interpreter_machine() -> int:
    """Return the architecture of the running interpreter; 0 if it is unknown."""
    with suppress(OSError), open(sys.executable, "rb") as file:
        return _read_elf_header(file)[0] if file.read(4) == _ELF_MAGIC else 0
    return 0


def _check_text(head: bytes) -> str:
    what = "is empty" if not head else "is no binary, and does not begin with #!"
    if head.startswith(b"\xef\xbb\xbf#!"):
        what = "begins with a byte order mark, not with #!"
    elif head.lstrip().startswith(b"#!"):
        what = "has its #! line after the beginning"
    hint = "begin it with a line such as #!/usr/bin/env python3"
    return f"{what}: {hint}, or {_INTERPRETER_HINT}"


# -- programs that change user or privileges --


def describe_privilege_change(program: Program) -> str:
    """Return a warning if a program gains privileges that this process lacks, else "".

    For scripts the interpreter is examined. A program that it starts in turn, such as by sudo(8),
    is not.
    """
    try:
        own = ProcessInfo("self")
    except OSError:
        return ""  # No descriptors are left.
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
    uid = status.st_uid
    if status.st_mode & stat.S_ISUID and uid != os.geteuid():
        return f"is set-user-ID: it runs as {find_user_name(uid) or f'user {uid}'}"
    changes_group = status.st_mode & stat.S_ISGID and status.st_mode & stat.S_IXGRP
    if changes_group and status.st_gid != os.getegid():
        return "is set-group-ID"
    return "has file capabilities" if _has_capabilities(path) else ""


def _has_capabilities(path: str) -> bool:
    try:
        return bool(os.getxattr(path, _CAPABILITIES_XATTR))
    except OSError as exc:
        return exc.errno not in (errno.ENODATA, errno.ENOTSUP)
