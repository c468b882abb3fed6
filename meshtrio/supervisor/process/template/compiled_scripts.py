"""Compiles the scripts of a template's children, once for all of them. Standard library only."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import types
import warnings

_MAX_COMPILED_LENGTH = 4 * 1024 * 1024
"""Bytes of the longest script that a template compiles."""


class CompiledScripts:
    """The scripts that this template's children run, compiled once for all of them.

    An interpreter has no cache for scripts, unlike for modules. A child compares the source.
    """

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, ...]] = {}
        self._compiled: dict[str, tuple[bytes, types.CodeType]] = {}

    def prepare(self, path: str) -> bool:
        """Compile a script, unless that has been done since it was changed.

        One that cannot be read or compiled, or not without a warning, is left to the child, which
        reports that. Returns whether the path may lead to another file than the last time.
        """
        try:
            status = os.stat(path)
        except (OSError, ValueError):
            return True
        version = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
        if self._files.get(path) == version:
            return False
        self._files[path] = version
        self._compiled.pop(path, None)
        # Opening a FIFO would wait for a writer.
        if stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_COMPILED_LENGTH:
            with contextlib.suppress(Exception):
                self._compile(path)
        return True

    def _compile(self, path: str) -> None:
        with io.open_code(path) as file:
            source = file.read(_MAX_COMPILED_LENGTH)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self._compiled[path] = source, compile_program(source, path)

    def is_compiled(self, path: str) -> bool:
        """Whether a script was compiled, with the contents that it had then."""
        return path in self._compiled

    def get_code(self, path: str, source: bytes) -> types.CodeType:
        """Return the code of a script, compiling it if necessary. Raises what that raises."""
        compiled, code = self._compiled.get(path, (None, None))
        return code if code is not None and compiled == source else compile_program(source, path)


COMPILED_SCRIPTS = CompiledScripts()


def compile_program(source: str | bytes, name: str) -> types.CodeType:
    """Compile a program, as the interpreter does with its command."""
    code: types.CodeType = compile(source, name, "exec", dont_inherit=True)
    return code
