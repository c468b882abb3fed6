"""Reads docs/limits.toml, the part of docs/reference/limits.md that is written by hand."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs


@attrs.frozen
class Limit:
    """One row of a table."""

    reached: str
    """What is seen when the limit is reached."""
    test: str
    """The test that holds the limit."""
    unit: str = ""
    """Unit of the default."""
    text: str = ""
    """Meaning; by default the first sentence of the docstring in the code."""
    name: str = ""
    """Name that is shown; by default that of the field."""
    default: str = ""
    """Default that is shown; by default the value in the code."""
    change: str = ""
    """How to change it; by default that of the table."""


@attrs.frozen
class Table:
    """A table of limits."""

    section: str
    heading: str
    text: str
    change: str
    limits: Mapping[str, Limit]
    """The rows, by field or constant."""


def _read_table(data: Mapping[str, Any]) -> Table:
    rows = [dict(row) for row in data["limit"]]
    keys = [row.pop("key") for row in rows]
    assert len({*keys}) == len(keys), keys
    return Table(
        data.get("section", ""),
        data.get("heading", ""),
        data.get("text", "").strip(),
        data["change"],
        {
            key: Limit(**{name: _joined(value) for name, value in row.items()})
            for key, row in zip(keys, rows, strict=True)
        },
    )


def _joined(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


_DATA = tomllib.loads((Path(__file__).parent / "limits.toml").read_text("utf-8"))
INTRODUCTION: str = _DATA["introduction"].strip()
CLOSING: str = _DATA["closing"].strip()
TABLES: tuple[Table, ...] = tuple(_read_table(table) for table in _DATA["table"])
LIMITS: dict[str, Limit] = {key: row for table in TABLES for key, row in table.limits.items()}
NO_LIMITS: dict[str, str] = {
    key: group["reason"] for group in _DATA.get("no_limits", []) for key in group["keys"]
}
"""By field or constant that looks like a limit: what it is instead."""
