"""Meshes that several tests share: those that look change nothing."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cli_commands import PRINTING_ECHO_PROGRAM, group_table
from tests.support.mesh_processes import (
    MeshProcess,
    echo_plugin_table,
    plugin_table,
    serve_mesh,
)

MUCH = {"lines_per_second": 1e6, "burst": 1_000_000}


@pytest.fixture(scope="package")
def mesh() -> Iterator[MeshProcess]:
    """A mesh to look at: a group of two plugins, and one that has given up."""
    config = (
        echo_plugin_table(instances=2)
        + plugin_table(
            "wordy",
            str(PRINTING_ECHO_PROGRAM),
            depends_on=["echo"],
            restart="on-failure",
            output=MUCH,
        )
        + plugin_table("bad", "startup_faults.py", "exit-at-once", restart="never")
        + group_table("pair", "echo", "wordy", strategy="one-for-all")
        + '[[service]]\nname = "outside"\nendpoints = ["tcp://127.0.0.1:1"]\nweight = 3\n'
    )
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with serve_mesh(Path(folder), config, min_ready=3) as found:
            found.wait_for_log("not restarted (restart policy)")
            yield found
