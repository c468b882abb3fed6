"""The state in memory that the new program reads."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from meshtrio.upgrade.state import read_state
from meshtrio.util.errors import UsageError


@contextmanager
def memory(content: str) -> Iterator[int]:
    descriptor = os.memfd_create("test")
    os.write(descriptor, content.encode())
    yield descriptor
    os.close(descriptor)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", "cannot be read"),
        ("[]", "cannot be read"),
        (json.dumps({"format": 99, "version": "9.9"}), r"\(9.9\) has a state of format 99"),
        (json.dumps({"version": "0.0"}), "format None"),
        (json.dumps({"format": 1, "version": "1.5"}), r"\(1.5\) cannot be used"),
        (json.dumps({"format": 1, "claim": "x"}), "SavedMesh.claim"),
    ],
)
def test_a_state_that_cannot_be_used_is_refused(content: str, problem: str) -> None:
    with memory(content) as descriptor, pytest.raises(UsageError, match=problem):
        read_state(descriptor)


def test_a_descriptor_that_is_not_there() -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        read_state(_unused_descriptor())


def _unused_descriptor() -> Any:
    return 999_999
