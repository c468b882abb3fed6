"""Programs that tests of channelz ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.channelz_client import ChannelzTarget, connect_channelz, run_without_mesh
from tests.support.mesh_processes import PLUGINS_DIRECTORY


@pytest.fixture
def caller(short_dir: Path) -> Iterator[ChannelzTarget]:
    """A plugin that makes the calls that it is asked for."""
    with (
        run_without_mesh(PLUGINS_DIRECTORY / "channel_holder.py", short_dir / "c"),
        connect_channelz(f"unix:{short_dir}/c") as program,
    ):
        yield program


@pytest.fixture
def target(short_dir: Path) -> Iterator[str]:
    """The address of one that can be called."""
    with run_without_mesh(PLUGINS_DIRECTORY / "echo_chain.py", short_dir / "t"):
        yield f"unix:{short_dir}/t"
