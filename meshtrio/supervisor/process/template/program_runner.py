"""Runs a program as `__main__`, as the interpreter does for its command. Standard library only."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import importlib.machinery
import io
import os
import runpy
import stat
import sys
import types
import warnings
from collections.abc import Callable
from typing import Any, NoReturn

_DIRECTORY = os.path.dirname(os.path.abspath(__file__))
_MAX_COMPILED_LENGTH = 4 * 1024 * 1024
"""Bytes of the longest script that a template compiles."""


class CompiledScripts:
    """The scripts that this template's children run, compiled once for all of them.

    An interpreter has no cache for scripts, unlike for modules. A child compares the source.
    """

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, ...]] = {}
        self._compiled: dict[str, tuple[bytes, types.CodeType]] = {}

    def prepare(self, script: str) -> None:
        """Compile a script, unless that has been done since it was changed.

        One that cannot be read or compiled, or not without a warning, is left to the child, which
        reports that.
        """
        try:
            path = os.path.join(os.getcwd(), script)
            status = os.stat(path)
            version = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
            if self._files.get(path) == version:
                return
            self._files[path] = version
            self._compiled.pop(path, None)
            # Opening a FIFO would wait for a writer.
            if stat.S_ISREG(status.st_mode) and status.st_size <= _MAX_COMPILED_LENGTH:
                with io.open_code(path) as file:
                    source = file.read(_MAX_COMPILED_LENGTH)
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    self._compiled[path] = source, _compile(source, path)
        except Exception:
            return

    def is_compiled(self, path: str) -> bool:
        """Whether a script was compiled, with the contents that it had then."""
        return path in self._compiled

    def get_code(self, path: str, source: bytes) -> types.CodeType:
        """Return the code of a script, compiling it if necessary. Raises what that raises."""
        compiled, code = self._compiled.get(path, (None, None))
        return code if code is not None and compiled == source else _compile(source, path)


COMPILED_SCRIPTS = CompiledScripts()


def run_program(option: str, program: str, arguments: list[str], sha256: str | None) -> None:
    """Run a program to its end, in the working directory.

    Args:
        option: "-m" for a module, "-c" for code, "" for a script.
        program: The name of the module, the code, or the path of the script.
        arguments: What follows in `sys.argv`.
        sha256: The hash of the script, which is not run if it differs; None for any.

    Raises what the program raises; its traceback is printed without the frames of a template.
    """
    main = types.ModuleType("__main__")
    main.__dict__.update({"__builtins__": builtins, "__annotations__": {}})
    sys.modules["__main__"] = main
    sys.argv = [option or program, *arguments]
    try:
        if option == "-m":
            _prepend_path(os.getcwd)
            run_module: Any = runpy._run_module_as_main  # type: ignore[attr-defined]
            run_module(program)
        elif option == "-c":
            _prepend_path(str)
            main.__loader__ = importlib.machinery.BuiltinImporter
            exec(_compile(program, "<string>"), main.__dict__)  # noqa: S102
        else:
            _run_script(program, sha256, main)
    except BaseException:
        sys.excepthook = _without_own_frames(sys.excepthook)
        raise


def _run_script(script: str, sha256: str | None, main: types.ModuleType) -> None:
    path = os.path.join(os.getcwd(), script)
    if not COMPILED_SCRIPTS.is_compiled(path) and _has_importer(path):
        if sha256 is not None:
            _read_script(path, sha256)
        sys.path.insert(0, path)  # Even with -P or -I.
        run_module: Any = runpy._run_module_as_main  # type: ignore[attr-defined]
        run_module("__main__", alter_argv=False)
        return
    _prepend_path(lambda: os.path.dirname(os.path.realpath(path)))
    loader = importlib.machinery.SourceFileLoader("__main__", path)
    main.__dict__.update({"__file__": path, "__cached__": None, "__loader__": loader})
    source = _read_script(path, sha256)
    exec(COMPILED_SCRIPTS.get_code(path, source), main.__dict__)  # noqa: S102


def _has_importer(path: str) -> bool:
    """Whether a program is a folder or a zip file, whose module `__main__` is to be run."""
    for hook in sys.path_hooks:
        with contextlib.suppress(ImportError):
            hook(path)
            return True
    return False


def _read_script(path: str, sha256: str | None) -> bytes:
    """Read a script; exit if that fails, or if it has another hash than `sha256`."""
    try:
        with io.open_code(path) as file:
            source = file.read()
    except OSError as exc:
        _exit(f"can't open file {path!r}: [Errno {exc.errno}] {exc.strerror}")
    if sha256 is not None and (found := hashlib.sha256(source).hexdigest()) != sha256:
        _exit(f"{path} has SHA-256 {found}, not {sha256}")
    return source


def _compile(source: str | bytes, name: str) -> types.CodeType:
    code: types.CodeType = compile(source, name, "exec", dont_inherit=True)
    return code


def _prepend_path(find_directory: Callable[[], str]) -> None:
    """Prepend the directory that programs import from, unless -P or -I forbids that."""
    if not sys.flags.safe_path:
        sys.path.insert(0, find_directory())


def _exit(text: str) -> NoReturn:
    print(f"{sys.executable}: {text}", file=sys.stderr)
    raise SystemExit(2)


def _without_own_frames(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a `sys.excepthook`: the program's traceback begins with the program's own frames."""

    def call_hook(
        kind: type[BaseException], exc: BaseException, traceback: types.TracebackType | None
    ) -> None:
        own = True
        while traceback is not None and own:
            file = traceback.tb_frame.f_code.co_filename
            if own := os.path.dirname(os.path.abspath(file)) == _DIRECTORY:
                traceback = traceback.tb_next
        hook(kind, exc.with_traceback(traceback), traceback)

    return call_hook
