"""Whether the kernel would execute a plugin's program, found out without executing it (execve(2)).

`problem_of` names what is wrong, and what to do. It is conservative: where the kernel might manage,
or where we may not look, there is no problem. A program may still fail to start.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import attrs

from meshtrio.config import elf
from meshtrio.config.plugin import PluginConfig
from meshtrio.regular_files import open_regular
from meshtrio.texts import whole

_HEAD = 256
"""Bytes that the kernel reads of a file to tell what it is (BINPRM_BUF_SIZE)."""
_MAX_DEPTH = 5
"""How many scripts may be interpreters of one another."""
_BY_INTERPRETER = 'name its interpreter in the command, as in ["python3", "plugin.py"]'


@attrs.frozen
class Place:
    """Where a process is started: its working directory, and its PATH."""

    cwd: str
    path: str

    @classmethod
    def of(cls, config: PluginConfig) -> Place:
        inherits = config.inherit_env is None or "PATH" in config.inherit_env
        inherited = os.environ.get("PATH", os.defpath) if inherits else os.defpath
        return cls(str(config.cwd or "."), config.env.get("PATH", inherited))

    def candidates(self, program: str) -> Iterator[str]:
        """The files that a program's name stands for, in the order that they are tried in."""
        if "/" in program:
            yield os.path.join(self.cwd, program)
            return
        for folder in self.path.split(os.pathsep):
            yield os.path.join(self.cwd, folder, program)


class _CannotBeExecutedError(Exception):
    """The text says which file it is about, why, and what to do."""


def problem_of(config: PluginConfig) -> str:
    """Why the program of a plugin cannot be executed, "" if no reason is found."""
    place = Place.of(config)
    try:
        _check_cwd(place.cwd, others=config.containment.user is not None)
        _check(config.argv()[0], place)
    except _CannotBeExecutedError as exc:
        return whole(str(exc))
    return ""


def _check_cwd(cwd: str, *, others: bool) -> None:
    """`others`: it is another user who has to be able to enter it."""
    if not os.path.exists(cwd):
        raise _CannotBeExecutedError(f"its cwd {cwd!r} is not there: make it, or set another `cwd`")
    if not os.path.isdir(cwd):
        raise _CannotBeExecutedError(f"its cwd {cwd!r} is not a folder: set another `cwd`")
    if not others and not os.access(cwd, os.X_OK):
        raise _CannotBeExecutedError(f"its cwd {cwd!r} may not be entered by this user")


def _check(program: str, place: Place, named_by: str = "", depth: int = 1) -> None:
    """`named_by`: what names it, if that is not the config: "the #! line of x"."""
    path = _found(program, place, named_by)
    about = f"{path!r}{f', which {named_by} names,' if named_by else ''}"
    _check_permission(path, about)
    try:
        with open(open_regular(path), "rb") as file:
            head = file.read(_HEAD)
            if head.startswith(b"#!"):
                _check_script(path, head, place, about, depth)
            elif head.startswith(elf.MAGIC):
                _check_elf(elf.read(file), about)
            elif b"\0" not in head:
                _check_text(head, about)
    except OSError:
        return  # it may be executed, but not read, or not by us


def _found(program: str, place: Place, named_by: str) -> str:
    """The file that would be executed, or the first that is there."""
    there = []
    for path in place.candidates(program):
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
        if os.path.lexists(path) and ("/" in program or not os.path.isdir(path)):
            there.append(path)
    if there:
        return there[0]
    by = f", which {named_by} names," if named_by else ""
    if "/" not in program:
        if not named_by:
            raise _CannotBeExecutedError(f"{program!r} is not on the PATH")
        raise _CannotBeExecutedError(f"{program!r}{by} is not on the PATH: install it")
    path = next(place.candidates(program))
    raise _CannotBeExecutedError(f"{path!r}{by} {_why_not_there(path)}")


def _why_not_there(path: str) -> str:
    try:
        os.lstat(path)
    except PermissionError:
        return "cannot be reached: a folder on the way to it may not be entered"
    except NotADirectoryError:
        return "is not there: a part of its path is a file, not a folder"
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            return f"cannot be reached: {exc.strerror}"
    return "is not there"


def _check_permission(path: str, about: str) -> None:
    try:
        status = os.stat(path)
    except OSError as exc:
        if os.path.islink(path):
            target = os.readlink(path)
            reason = f"is a symbolic link to {target!r}, which cannot be reached: {exc.strerror}"
            raise _CannotBeExecutedError(f"{about} {reason}") from None
        return
    if stat.S_ISDIR(status.st_mode):
        raise _CannotBeExecutedError(f"{about} is a folder, not a program")
    if not stat.S_ISREG(status.st_mode):
        raise _CannotBeExecutedError(f"{about} is not a regular file")
    if not status.st_mode & 0o111:
        raise _CannotBeExecutedError(
            f"{about} has no execute permission: chmod +x it, or {_BY_INTERPRETER}"
        )
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        raise _CannotBeExecutedError(
            f"{about} is on a filesystem that is mounted noexec ({_mount_point(path)}): move it to "
            f"another one, or {_BY_INTERPRETER}"
        )
    if not os.access(path, os.X_OK):
        raise _CannotBeExecutedError(f"{about} may not be executed by this user: see its mode")


def _mount_point(path: str) -> str:
    folder = Path(os.path.realpath(path)).parent
    while not os.path.ismount(folder):
        folder = folder.parent
    return str(folder)


def _check_script(path: str, head: bytes, place: Place, about: str, depth: int) -> None:
    """Hold the first line of a script to what the kernel takes."""
    line, newline, _ = head[2:].partition(b"\n")
    if line.endswith(b"\r"):
        raise _CannotBeExecutedError(
            f"{about} has a #! line that ends with CR LF, as on Windows, and the CR counts as part "
            f"of the name: convert it, as with sed -i 's/\\r$//' {path!r}"
        )
    words = line.split(maxsplit=1)
    if not words:
        raise _CannotBeExecutedError(f"{about} has a #! line that names no interpreter")
    if not newline and len(words) == 1 and len(head) == _HEAD:
        raise _CannotBeExecutedError(
            f"{about} has a #! line whose interpreter has a longer path than the kernel takes "
            f"({_HEAD} bytes for the line): use a shorter path, or /usr/bin/env"
        )
    if depth >= _MAX_DEPTH:
        raise _CannotBeExecutedError(f"{about} is one of too many scripts that run one another")
    interpreter, *arguments = map(os.fsdecode, words)
    by = f"the #! line of {path!r}"
    _check(interpreter if "/" in interpreter else f"./{interpreter}", place, by, depth + 1)
    program = _program_of_env(interpreter, arguments)
    if program:
        _check(program, place, by, depth + 1)


def _program_of_env(interpreter: str, arguments: list[str]) -> str:
    """What env(1) is asked for in a #! line; "" where that takes more to tell."""
    if os.path.basename(interpreter) != "env" or not arguments:
        return ""
    # The kernel gives all of it as one argument, which -S takes apart.
    words = arguments[0].split()
    if words[0] == "-S":
        words = words[1:]
    elif len(words) > 1:
        return ""
    plain = bool(words) and not words[0].startswith("-") and not set(words[0]) & set("='\"\\$#")
    return words[0] if plain else ""


def _check_elf(found: elf.Elf, about: str) -> None:
    if found.is_native and found.loader and not os.path.exists(found.loader):
        raise _CannotBeExecutedError(
            f"{about} needs the loader {found.loader!r}, which is not there: it was built for "
            "another distribution or C library"
        )


def _check_text(head: bytes, about: str) -> None:
    what = "is empty" if not head else "is no binary, and does not begin with #!"
    if head.startswith(b"\xef\xbb\xbf#!"):
        what = "begins with a byte order mark, not with #!"
    elif head.lstrip().startswith(b"#!"):
        what = "has its #! line after the beginning"
    raise _CannotBeExecutedError(
        f"{about} {what}: begin it with a line such as #!/usr/bin/env python3, or {_BY_INTERPRETER}"
    )
