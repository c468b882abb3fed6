"""Predicts whether the kernel can execute a plugin's program, without executing it (execve(2)).

`explain_not_executable` returns what is wrong, and what to do. It is conservative: if the kernel
might succeed, or a file cannot be read, it reports nothing. A program may still fail to start.
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
from meshtrio.util.regular_files import open_regular_file
from meshtrio.util.text import replace_surrogates

MAX_SHEBANG_SIZE = 256
"""Bytes of a file that the kernel reads to determine its format (BINPRM_BUF_SIZE)."""
MAX_INTERPRETER_DEPTH = 5
"""Maximum number of scripts that are interpreters of one another."""
_INTERPRETER_HINT = 'name its interpreter in the command, as in ["python3", "plugin.py"]'


@attrs.frozen
class ExecutionContext:
    """Working directory and PATH that a process is started with."""

    cwd: str
    path: str

    @classmethod
    def from_config(cls, config: PluginConfig) -> ExecutionContext:
        """Return the context of a plugin's processes."""
        inherits = config.inherit_env is None or "PATH" in config.inherit_env
        inherited = os.environ.get("PATH", os.defpath) if inherits else os.defpath
        return cls(str(config.cwd or "."), config.env.get("PATH", inherited))

    def candidates(self, program: str) -> Iterator[str]:
        """Yield the paths that a program's name may refer to, in the order of execvp(3)."""
        if "/" in program:
            yield os.path.join(self.cwd, program)
            return
        for folder in self.path.split(os.pathsep):
            yield os.path.join(self.cwd, folder, program)


class _NotExecutableError(Exception):
    """A program cannot be executed; the text names the file, the reason, and what to do."""


def explain_not_executable(config: PluginConfig) -> str:
    """Return why a plugin's program cannot be executed; "" if no reason is found."""
    place = ExecutionContext.from_config(config)
    try:
        _check_cwd(place.cwd, is_other_user=config.containment.user is not None)
        _check_program(config.argv()[0], place)
    except _NotExecutableError as exc:
        return replace_surrogates(str(exc))
    return ""


def _check_cwd(cwd: str, *, is_other_user: bool) -> None:
    """Check a working directory; `is_other_user`: whether another user will enter it."""
    if not os.path.exists(cwd):
        raise _NotExecutableError(f"its cwd {cwd!r} is not there: make it, or set another `cwd`")
    if not os.path.isdir(cwd):
        raise _NotExecutableError(f"its cwd {cwd!r} is not a folder: set another `cwd`")
    if not is_other_user and not os.access(cwd, os.X_OK):
        raise _NotExecutableError(f"its cwd {cwd!r} may not be entered by this user")


def _check_program(
    program: str, context: ExecutionContext, referrer: str = "", depth: int = 1
) -> None:
    """Check a program; `referrer` names what refers to it, such as "the #! line of x"."""
    path = _resolve_program(program, context, referrer)
    subject = f"{path!r}{f', which {referrer} names,' if referrer else ''}"
    _check_permission(path, subject)
    try:
        with open(open_regular_file(path), "rb") as file:
            head = file.read(MAX_SHEBANG_SIZE)
            if head.startswith(b"#!"):
                _check_script(path, head, context, subject, depth)
            elif head.startswith(elf.ELF_MAGIC):
                _check_elf(elf.read_elf_header(file), subject)
            elif b"\0" not in head:
                _check_text(head, subject)
    except OSError:
        return  # The file may be executable without being readable.


def _resolve_program(program: str, context: ExecutionContext, referrer: str) -> str:
    """Return the path that would be executed, else the first that exists."""
    existing = []
    for path in context.candidates(program):
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
        if os.path.lexists(path) and ("/" in program or not os.path.isdir(path)):
            existing.append(path)
    if existing:
        return existing[0]
    by = f", which {referrer} names," if referrer else ""
    if "/" not in program:
        if not referrer:
            raise _NotExecutableError(f"{program!r} is not on the PATH")
        raise _NotExecutableError(f"{program!r}{by} is not on the PATH: install it")
    path = next(context.candidates(program))
    raise _NotExecutableError(f"{path!r}{by} {_explain_missing(path)}")


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
    return "is not there"


def _check_permission(path: str, subject: str) -> None:
    try:
        status = os.stat(path)
    except OSError as exc:
        if os.path.islink(path):
            target = os.readlink(path)
            reason = f"is a symbolic link to {target!r}, which cannot be reached: {exc.strerror}"
            raise _NotExecutableError(f"{subject} {reason}") from None
        return
    if stat.S_ISDIR(status.st_mode):
        raise _NotExecutableError(f"{subject} is a folder, not a program")
    if not stat.S_ISREG(status.st_mode):
        raise _NotExecutableError(f"{subject} is not a regular file")
    if not status.st_mode & 0o111:
        raise _NotExecutableError(
            f"{subject} has no execute permission: chmod +x it, or {_INTERPRETER_HINT}"
        )
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        raise _NotExecutableError(
            f"{subject} is on a filesystem that is mounted noexec "
            f"({_mount_point(path)}): move it to "
            f"another one, or {_INTERPRETER_HINT}"
        )
    if not os.access(path, os.X_OK):
        raise _NotExecutableError(f"{subject} may not be executed by this user: see its mode")


def _mount_point(path: str) -> str:
    folder = Path(os.path.realpath(path)).parent
    while not os.path.ismount(folder):
        folder = folder.parent
    return str(folder)


def _check_script(
    path: str, head: bytes, context: ExecutionContext, subject: str, depth: int
) -> None:
    """Check the #! line of a script, its interpreter, and the program that env(1) runs."""
    line, newline, _ = head[2:].partition(b"\n")
    if line.endswith(b"\r"):
        raise _NotExecutableError(
            f"{subject} has a #! line that ends with CR LF, as on Windows, and the CR "
            "counts as part "
            f"of the name: convert it, as with sed -i 's/\\r$//' {path!r}"
        )
    words = line.split(maxsplit=1)
    if not words:
        raise _NotExecutableError(f"{subject} has a #! line that names no interpreter")
    if not newline and len(words) == 1 and len(head) == MAX_SHEBANG_SIZE:
        raise _NotExecutableError(
            f"{subject} has a #! line whose interpreter has a longer path than the kernel takes "
            f"({MAX_SHEBANG_SIZE} bytes for the line): use a shorter path, or /usr/bin/env"
        )
    if depth >= MAX_INTERPRETER_DEPTH:
        raise _NotExecutableError(f"{subject} is one of too many scripts that run one another")
    interpreter, *arguments = map(os.fsdecode, words)
    by = f"the #! line of {path!r}"
    _check_program(
        interpreter if "/" in interpreter else f"./{interpreter}", context, by, depth + 1
    )
    program = _env_program(interpreter, arguments)
    if program:
        _check_program(program, context, by, depth + 1)


def _env_program(interpreter: str, arguments: list[str]) -> str:
    """Return the program that env(1) runs in a #! line; "" if that is not evident."""
    if os.path.basename(interpreter) != "env" or not arguments:
        return ""
    # The kernel passes all of it as one argument, which -S splits.
    words = arguments[0].split()
    if words[0] == "-S":
        words = words[1:]
    elif len(words) > 1:
        return ""
    plain = bool(words) and not words[0].startswith("-") and not set(words[0]) & set("='\"\\$#")
    return words[0] if plain else ""


def _check_elf(header: elf.ElfHeader, subject: str) -> None:
    if header.is_native and header.loader and not os.path.exists(header.loader):
        raise _NotExecutableError(
            f"{subject} needs the loader {header.loader!r}, which is not there: it was built for "
            "another distribution or C library"
        )


def _check_text(head: bytes, subject: str) -> None:
    what = "is empty" if not head else "is no binary, and does not begin with #!"
    if head.startswith(b"\xef\xbb\xbf#!"):
        what = "begins with a byte order mark, not with #!"
    elif head.lstrip().startswith(b"#!"):
        what = "has its #! line after the beginning"
    raise _NotExecutableError(
        f"{subject} {what}: begin it with a line such as #!/usr/bin/env python3, or "
        f"{_INTERPRETER_HINT}"
    )
