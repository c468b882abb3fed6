"""Runs a program as `__main__`, as the interpreter does for its command. Standard library only."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import importlib.machinery
import importlib.util
import io
import marshal
import os
import runpy
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn

TYPE_CHECKING = False  # without importing typing
if TYPE_CHECKING or __package__:
    from meshtrio.supervisor.process.template.compiled_scripts import (
        COMPILED_SCRIPTS,
        compile_program,
    )
else:
    from compiled_scripts import COMPILED_SCRIPTS, compile_program  # see `template_main`

_DIRECTORY = os.path.dirname(os.path.abspath(__file__))
_PYC_HEADER_LENGTH = 16


def find_program_directory(option: str, program: str, cwd: str) -> str:
    """Return what the interpreter puts in front of `sys.path` for a program."""
    if option == "-m":
        return cwd
    if option == "-c":
        return ""
    path = os.path.join(cwd, program)
    return path if is_importable(path) else os.path.dirname(os.path.realpath(path))


def is_importable(path: str) -> bool:
    """Whether a program is a folder or a zip file, whose module `__main__` is to be run."""
    if COMPILED_SCRIPTS.is_compiled(path):
        return False
    for hook in sys.path_hooks:
        with contextlib.suppress(ImportError):
            hook(path)
            return True
    return False


class ProgramRunner:
    """Runs a program in a child of this template."""

    def __init__(self) -> None:
        self._search_path: str | None = None
        self._main_names: list[str] = []
        """The names of modules that are this template's `__main__`."""

    def note_template(self, search_path: str | None) -> None:
        """Note what the template has set up for its children, when it is about to serve.

        Args:
            search_path: The directory of the program, in front of what its modules have then made
                of `sys.path`; None if programs have different ones.
        """
        self._search_path = search_path
        main = sys.modules["__main__"]
        self._main_names = [name for name, module in sys.modules.items() if module is main]

    def run(
        self,
        option: str,
        program: str,
        arguments: list[str],
        sha256: str | None,
        cwd: str,
        directory: str | None = None,
    ) -> None:
        """Run a program to its end.

        Args:
            option: "-m" for a module, "-c" for code, "" for a script.
            program: The name of the module, the code, or the path of the script.
            arguments: What follows in `sys.argv`.
            sha256: The hash of the script, which is not run if it differs; None for any.
            cwd: The directory that the interpreter was started in.
            directory: What `find_program_directory` returns for it, if that is known.

        Raises what the program raises; its traceback is printed without the frames of a template.
        """
        main = types.ModuleType("__main__")
        main.__dict__.update({"__builtins__": builtins, "__annotations__": {}})
        for name in self._main_names:  # multiprocessing has another one.
            sys.modules[name] = main
        sys.argv = [option or program, *arguments]
        if directory is None:
            directory = find_program_directory(option, program, cwd)
        self._set_search_path(directory, is_program=directory == os.path.join(cwd, program))
        try:
            if option == "-m":
                _run_module(program)
            elif option == "-c":
                main.__loader__ = importlib.machinery.BuiltinImporter
                exec(compile_program(program, "<string>"), main.__dict__)  # noqa: S102
            else:
                _run_script(os.path.join(cwd, program), sha256, main)
        except BaseException:
            sys.excepthook = _without_own_frames(sys.excepthook)
            raise

    def _set_search_path(self, directory: str, *, is_program: bool) -> None:
        """Put a directory on the search path; `is_program` if it is the program itself."""
        if sys.flags.safe_path and not is_program:  # -P or -I
            return
        if self._search_path is None:
            sys.path.insert(0, directory)
        elif self._search_path in sys.path:
            sys.path[sys.path.index(self._search_path)] = directory
        # Otherwise a module of the preload has removed it.


def _run_module(name: str, **options: Any) -> None:
    run_module: Any = runpy._run_module_as_main  # type: ignore[attr-defined]
    run_module(name, **options)


def _run_script(path: str, sha256: str | None, main: types.ModuleType) -> None:
    if is_importable(path):
        if sha256 is not None:
            _read_script(path, sha256)
        _run_module("__main__", alter_argv=False)
        return
    source = _read_script(path, sha256)
    is_compiled = path.endswith(".pyc") or source[:4] == importlib.util.MAGIC_NUMBER
    loader_type = importlib.machinery.SourceFileLoader
    if is_compiled:
        loader_type = importlib.machinery.SourcelessFileLoader  # type: ignore[assignment]
    loader = loader_type("__main__", path)
    main.__dict__.update({"__file__": path, "__cached__": None, "__loader__": loader})
    code = _load_compiled(source) if is_compiled else COMPILED_SCRIPTS.get_code(path, source)
    exec(code, main.__dict__)  # noqa: S102


def _load_compiled(data: bytes) -> types.CodeType:
    """Load a .pyc file, which the interpreter runs without a look at its source."""
    if data[:4] != importlib.util.MAGIC_NUMBER:
        raise RuntimeError("Bad magic number in .pyc file")
    code = marshal.loads(data[_PYC_HEADER_LENGTH:])  # noqa: S302  as the interpreter does
    if not isinstance(code, types.CodeType):
        raise RuntimeError("Bad code object in .pyc file")
    return code


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
