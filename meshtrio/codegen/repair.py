"""Repairs imports that protoc writes of modules whose names are no identifiers.

For `import "2fa/v1/y.proto"` protoc writes `from 2fa.v1 import y_pb2 as …`, a syntax error, into
both the module and its types.
"""

from __future__ import annotations

import re

from meshtrio.codegen.naming import is_importable

_IMPORT = re.compile(
    r"^from (?P<package>\S+) import (?P<name>\S+)(?: as (?P<alias>\S+))?$", re.MULTILINE
)
_IMPORT_EXPRESSION = '__import__("importlib").import_module("{module}")'


def repair_module(text: str) -> str:
    """Return the text of an `x_pb2.py` with valid imports of all modules."""

    def replacement(found: re.Match[str]) -> str:
        package, name = found["package"], found["name"]
        public = name == "*"
        module = package if public else f"{package}.{name}"
        if is_importable(module):
            return found[0]
        load = _IMPORT_EXPRESSION.format(module=module)
        if public:
            return f'globals().update({{k: v for k, v in vars({load}).items() if k[0] != "_"}})'
        return load if not is_importable(found["alias"]) else f"{found['alias']} = {load}"

    return _IMPORT.sub(replacement, text)


def repair_types(text: str) -> str:
    """Return the text of an `x_pb2.pyi`, in which types of such modules become Any."""
    unknown: list[str] = []

    def replacement(found: re.Match[str]) -> str:
        package, name = found["package"], found["name"]
        if is_importable(package) and (name == "*" or is_importable(name)):
            return found[0]
        if found["alias"]:
            unknown.append(found["alias"])
            return ""
        # A name of a public import is a type or a constant.
        return f"from typing import Any as {name}" if is_importable(name) else ""

    text = _IMPORT.sub(replacement, text)
    for alias in unknown:
        text = re.sub(rf"\b{re.escape(alias)}(\.\w+)+", "_Unknown", text)
    return f"from typing import Any as _Unknown\n{text}" if unknown else text
