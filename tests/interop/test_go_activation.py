"""A plugin on grpc-go that takes its socket by the activation package of coreos."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.held_sockets.connects import Restart, held_echo_plugin, measure_connects
from tests.support.ports import find_free_port
from tests.tools import find_tool


@pytest.mark.parametrize("is_tcp", [False, True])
@pytest.mark.parametrize("restart", Restart)
async def test_no_connection_to_it_is_refused_while_it_is_restarted(
    short_dir: Path, restart: Restart, is_tcp: bool
) -> None:
    listen = f"tcp://127.0.0.1:{find_free_port()}" if is_tcp else None
    plugin = held_echo_plugin(find_tool("grpc-go-activation"), "echo", listen=listen)
    counts = await measure_connects(short_dir, restart, plugin, connects=400, restarts=4)
    # Some may be cut at a replacement as well: grpc-go closes, without GOAWAY, a connection that it
    # accepts in the instant in which GracefulStop begins.
    assert (counts.refused, len(counts.pids)) == (0, 5)
    assert counts.answered >= 400
