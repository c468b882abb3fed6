"""The parts of a command that runs a Python program, which a template process takes over."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

import attrs

_INTERPRETER = re.compile(r"python[0-9.]*[dt]*")
_FLAGS = re.compile(r"-[bBdEIOPqsSuv]+")
"""Options without a value. Excluded are those after which no program runs, or not only that: -h,
-i, -V, -x."""
_VALUE_OPTIONS = ("-X", "-W", "--check-hash-based-pycs")
_HINT = 'start = "fork" is for `{python} script.py`, `{python} -m module` and `{python} -c code`'


@attrs.frozen
class PythonCommand:
    """A command of the form `python [options] script.py ...`, or with `-m module` or `-c code`.

    Source: Python's "Command line and environment".
    """

    interpreter: tuple[str, ...]
    """The interpreter with its options."""
    option: str
    """How the program is given: "-m" for a module, "-c" for code, "" for a script."""
    program: str
    """The name of a module, the code, or the path of a script, from the working directory."""
    arguments: tuple[str, ...]
    """What follows in `sys.argv`."""

    @classmethod
    def parse(cls, argv: Sequence[str]) -> PythonCommand:
        """Parse a command. Raises ValueError if it does not have this form."""
        if not _INTERPRETER.fullmatch(os.path.basename(argv[0])):
            raise ValueError(f"{argv[0]!r} is not a Python interpreter; {_HINT}")
        position = 1
        while position < len(argv):
            word = argv[position]
            if word in _VALUE_OPTIONS:
                position += 2
            elif _FLAGS.fullmatch(word) or re.match(r"-[XW].", word):
                position += 1
            else:
                break
        interpreter, rest = tuple(argv[:position]), tuple(argv[position:])
        if rest[:1] in (("-m",), ("-c",)) and len(rest) > 1:
            return cls(interpreter, rest[0], rest[1], rest[2:])
        if rest and not rest[0].startswith("-"):
            return cls(interpreter, "", rest[0], rest[1:])
        raise ValueError(f"names no program; {_HINT}")
