"""What became of the calls of a client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import attrs

_MAX_TEXTS = 200
"""Of each list that are kept; more than that of them are only counted."""


@attrs.define
class Score:
    """Counts of calls, and those that must not be."""

    outcomes: Counter[str] = attrs.field(factory=Counter)
    """By kind of call and how it ended."""
    lost: list[str] = attrs.field(factory=list)
    """Calls of `Echo` that were not answered."""
    wrong: list[str] = attrs.field(factory=list)
    """Replies of other calls, and streams that ended early without an error."""
    late: list[str] = attrs.field(factory=list)
    """Calls that ended long after their deadline."""

    def add(self, other: Score) -> None:
        self.outcomes.update(other.outcomes)
        for name in ("lost", "wrong", "late"):
            append_bounded(getattr(self, name), getattr(other, name))

    def to_json(self) -> dict[str, Any]:
        return attrs.asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Score:
        return cls(**{**found, "outcomes": Counter(found["outcomes"])})


def append_bounded(texts: list[str], more: Iterable[str]) -> None:
    """Add texts as far as there is room."""
    for text in more:
        if len(texts) < _MAX_TEXTS:
            texts.append(text)
