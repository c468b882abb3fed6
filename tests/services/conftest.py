"""Programs that tests of channelz ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.programs import PLUGINS
from tests.services.channelz import Program, alone, client


@pytest.fixture
def caller(short_dir: Path) -> Iterator[Program]:
    """A plugin that calls others as it is told."""
    with alone(PLUGINS / "caller.py", short_dir / "c"), client(f"unix:{short_dir}/c") as program:
        yield program


@pytest.fixture
def target(short_dir: Path) -> Iterator[str]:
    """The address of one that can be called."""
    with alone(PLUGINS / "chain.py", short_dir / "t"):
        yield f"unix:{short_dir}/t"
