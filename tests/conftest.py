"""What every test has: a guard against hanging."""

from __future__ import annotations

import faulthandler
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

HANG_GUARD = 120
"""Seconds after which a test that hangs ends the run, with a traceback of every thread."""


@pytest.fixture(autouse=True)
def hang_guard() -> Iterator[None]:
    faulthandler.dump_traceback_later(HANG_GUARD, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name within 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        yield Path(name)
