"""Meshes that several tests share: those that look change nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.commands import WORDY, group
from tests.programs import Served, echo, plugin, served

MUCH = {"lines_per_second": 1e6, "burst": 1_000_000}


@pytest.fixture(scope="package")
def mesh() -> Iterator[Served]:
    """A mesh to look at: a group of two plugins, and one that has given up."""
    config = (
        echo(instances=2)
        + plugin("wordy", str(WORDY), after=["echo"], restart="on-failure", output=MUCH)
        + plugin("bad", "faulty.py", "exit-at-once", restart="never")
        + group("pair", "echo", "wordy", strategy="one-for-all")
        + '[[service]]\nname = "outside"\nendpoints = ["tcp://127.0.0.1:1"]\nweight = 3\n'
    )
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with served(Path(folder), config, ready=3) as found:
            found.wait_for("its restart policy leaves it so")
            yield found
