"""What plugins and tasks have in common: a program, and what it is executed with."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from meshtrio import contract
from meshtrio.config.containment import Containment
from meshtrio.config.python_command import PythonCommand
from meshtrio.config.validators import require
from meshtrio.util.executable_check import Program

PYTHON_PLACEHOLDER = "{python}"
"""Word of a command that stands for the interpreter that the mesh runs on."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
check_name = require(
    _NAME.fullmatch,
    "{!r} is not a name: it has up to 64 letters, digits, '-' and '_', and does not begin with a "
    "sign",
)
"""Validates the name of a plugin, group or task."""
check_command = require(
    lambda words: words and words[0], 'must name a program, as in ["python", "plugin.py"]'
)
"""Validates a command."""
COMMAND_METADATA = {"hint": "it is run without a shell"}
"""The metadata of the fields of commands."""


def check_env(env: Mapping[str, str]) -> None:
    """Raise ValueError if variables cannot be set, or are set by the mesh."""
    for key in env:
        if not key or "=" in key or "\0" in key + env[key]:
            # What follows "=" may be a secret.
            name = key.partition("=")[0]
            raise ValueError(f"{name!r} cannot be the name of an environment variable")
        if key in contract.MESH_VARIABLES:
            raise ValueError(f"{key} is set by the mesh")


class ProgramConfig:
    """The part of a plugin's or task's config that says what is executed. The fields are theirs."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def name(self) -> str: ...
        @property
        def command(self) -> tuple[str, ...]: ...
        @property
        def env(self) -> Mapping[str, str]: ...
        @property
        def inherit_env(self) -> tuple[str, ...] | None: ...
        @property
        def cwd(self) -> Path | None: ...
        @property
        def containment(self) -> Containment: ...
        @property
        def stop_timeout(self) -> float: ...

    def python_command(self) -> PythonCommand:
        """Return the parts of a command that runs Python. Raises ValueError for others."""
        return PythonCommand.parse(self.argv())

    def script(self) -> Path:
        """Return the path of the script that Python runs. Raises ValueError if there is none."""
        command = self.python_command()
        if command.option:
            raise ValueError(f"the command runs no script, but {command.option}")
        return Path(self.cwd or ".", command.program)

    def check_script(self) -> list[str]:
        """Return an error if the hash of a script is set and the command runs none."""
        if self.containment.script_sha256 is not None:
            try:
                self.script()
            except ValueError as exc:
                return [f"containment.script_sha256: {exc}"]
        return []

    def program(self) -> Program:
        """Return the program, with what it is looked up and executed with."""
        inherits = self.inherit_env is None or "PATH" in self.inherit_env
        inherited = os.environ.get("PATH", os.defpath) if inherits else os.defpath
        path, is_other_user = self.env.get("PATH", inherited), self.containment.user is not None
        return Program(self.argv()[0], str(self.cwd or "."), path, is_other_user)

    def argv(self) -> list[str]:
        """Return the command as it is executed."""
        program, *arguments = (
            sys.executable if w == PYTHON_PLACEHOLDER else w for w in self.command
        )
        if self.cwd is not None and "/" in program:
            program = str(self.cwd / program)
        return [program, *arguments]
