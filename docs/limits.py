"""Makes docs/reference/limits.md from the classes and constants that set limits.

Defaults and meanings come from the code. What happens when a limit is reached is written by hand,
in `limit_rows`. Every numeric field of a class in `NUMERIC_CLASSES`, and every constant whose name
says that it is a limit, has a row or is listed in `NO_LIMITS`; each row names a test.
`tests/docs/test_limits.py` checks all of that, and that the quoted texts occur in the code.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import math
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import UnionType
from typing import Any, get_args

import limit_rows
from limit_rows import Limit, Table

from meshtrio.config import (
    Containment,
    GatewayConfig,
    GroupConfig,
    Liveness,
    MeshConfig,
    MeshLimits,
    OutputConfig,
    PluginConfig,
    Rlimits,
    StaticServiceConfig,
    TaskConfig,
    TelemetryConfig,
)
from meshtrio.grpc.outlier_detection import OutlierDetection
from meshtrio.grpc.service_config import (
    CircuitBreakerLimits,
    HedgingPolicy,
    LoadBalancingConfig,
    MethodConfig,
    RetryBudgetConfig,
    RetryPolicy,
    RetryThrottling,
)
from meshtrio.http2.limits import UNLIMITED, Limits
from meshtrio.rpc.timeouts import Timeouts
from meshtrio.util.backoff import Backoff

NUMERIC_CLASSES: tuple[type, ...] = (
    *(Backoff, CircuitBreakerLimits, Containment, GatewayConfig, GroupConfig, HedgingPolicy),
    *(Limits, Liveness, LoadBalancingConfig, MeshConfig, MeshLimits, MethodConfig),
    *(OutlierDetection, OutputConfig, PluginConfig, RetryBudgetConfig, RetryPolicy),
    *(RetryThrottling, Rlimits, StaticServiceConfig, TaskConfig, TelemetryConfig),
    *(Timeouts,),
)
"""The classes that users configure limits with."""
CONSTANT_NAMES = re.compile(r"_?[A-Z_]*(MAX|LIMIT|TIMEOUT|RESERVED|BACKLOG$|HIGH_WATER)[A-Z_]*")
"""Names of constants that are limits."""
_KIB, _MIB = 1024, 1024 * 1024
_CLASSES = {each.__name__: each for each in NUMERIC_CLASSES}


def numeric_fields() -> Iterator[str]:
    """Yield the numeric fields of NUMERIC_CLASSES, as "Class.field"."""
    for cls in NUMERIC_CLASSES:
        # By name, since some modules import this class for type checkers only.
        names = {"OutlierDetection": OutlierDetection}
        hints = inspect.get_annotations(cls, eval_str=True, locals=names)
        for field in inspect.signature(cls).parameters:
            hint = hints.get(field)
            alternatives = get_args(hint) if isinstance(hint, UnionType) else (hint,)
            if {int, float} & {*alternatives}:
                yield f"{cls.__name__}.{field}"


def limit_constants(package: Path) -> Iterator[str]:
    """Yield the numeric constants of a package that CONSTANT_NAMES matches, as "module:NAME"."""
    for path in sorted(package.rglob("*.py")):
        module = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                name = node.targets[0].id
                if CONSTANT_NAMES.fullmatch(name) and _is_number(node.value):
                    yield f"{module}:{name}"


def _is_number(node: ast.expr) -> bool:
    if isinstance(node, ast.BinOp):
        return _is_number(node.left) and _is_number(node.right)
    is_constant = isinstance(node, ast.Constant)
    return is_constant and type(node.value) in (int, float)  # type: ignore[attr-defined]


def docstrings(source: str) -> dict[str, str]:
    """By name: the text that follows an assignment, of a module or of a class's body."""
    tree = ast.parse(textwrap.dedent(source))
    body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else tree.body
    found: dict[str, str] = {}
    for before, after in itertools.pairwise(body):
        if not isinstance(after, ast.Expr) or not isinstance(after.value, ast.Constant):
            continue
        target = before.target if isinstance(before, ast.AnnAssign) else None
        if isinstance(before, ast.Assign):
            target = before.targets[0]
        if isinstance(target, ast.Name):
            found[target.id] = re.sub(r"\s+", " ", str(after.value.value)).strip()
    return found


def page() -> str:
    """Return the text of docs/reference/limits.md."""
    parts, notes = [limit_rows.INTRODUCTION], []
    for table in limit_rows.TABLES:
        if table.section:
            parts.append(f"## {table.section}")
        if table.heading:
            parts.append(f"### {table.heading}")
        if table.text:
            parts.append(table.text)
        parts.append("\n".join(_table_lines(table)))
        notes += [f"[^{_label(key)}]: `{limit.test}`" for key, limit in table.limits.items()]
    return "\n\n".join([*parts, limit_rows.CLOSING, "\n".join(notes)]) + "\n"


def _table_lines(table: Table) -> Iterator[str]:
    yield "| limit | default | when it is reached | to change it |"
    yield "| --- | --- | --- | --- |"
    for key, limit in table.limits.items():
        meaning = _meaning(key, limit)
        name = limit.name or ("" if ":" in key else key.partition(".")[2])
        shown = f"`{name}`: {meaning}" if name else meaning
        change = (limit.change or table.change).format(name=name)
        cells = (f"{shown}[^{_label(key)}]", _default(key, limit), limit.reached, change)
        yield f"| {' | '.join(cells)} |"


def _label(key: str) -> str:
    return re.sub("[^a-z0-9]+", "-", key.removeprefix("meshtrio.").lower()).strip("-")


def _meaning(key: str, limit: Limit) -> str:
    text = limit.text or _docstring(key)
    return re.split(r"(?<=\.)\s", text)[0].rstrip(".")


def _docstring(key: str) -> str:
    module, is_constant, name = key.partition(":")
    if not is_constant:
        cls, _, field = key.partition(".")
        return docstrings(inspect.getsource(_CLASSES[cls]))[field]
    source = inspect.getsource(import_module(module))
    return docstrings(source)[name]


def value_of(key: str) -> Any:
    """Return the default of a field, or the value of a constant."""
    module, is_constant, name = key.partition(":")
    if not is_constant:
        cls, _, field = key.partition(".")
        return _default_of_field(_CLASSES[cls], field)
    value: Any = import_module(module)
    for part in name.split("."):
        is_class = inspect.isclass(value)
        value = _default_of_field(value, part) if is_class else getattr(value, part)
    return value


def _default_of_field(cls: type, field: str) -> Any:
    return inspect.signature(cls).parameters[field].default


def _default(key: str, limit: Limit) -> str:
    if limit.default:
        return limit.default
    value = value_of(key)
    if value is inspect.Parameter.empty:
        return "required"
    assert value is None or isinstance(value, int | float), f"{key} is no number: {value!r}"
    if value is None or value in (math.inf, UNLIMITED):
        return "none"
    if limit.unit == "bytes":
        return _size(value)
    return f"{value:,.10g} {limit.unit}".rstrip()


def _size(value: float) -> str:
    for unit, size in (("MiB", _MIB), ("KiB", _KIB)):
        if value >= size and value % size == 0:
            return f"{value // size:,} {unit}"
    return f"{value:,} bytes"
