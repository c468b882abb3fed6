"""grpcurl on a plugin's socket: list, describe, call."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.grpcurl_as_user import run_grpcurl
from tests.support.mesh_processes import echo_plugin_table, serve_mesh


def test_grpcurl_lists_describes_and_calls(short_dir: Path) -> None:
    with serve_mesh(short_dir, echo_plugin_table(), min_ready=1) as mesh:
        socket = mesh.runtime_dir / "echo-0.sock"
        assert "echo.v1.EchoService" in run_grpcurl(socket, "list").split()
        assert "rpc Chat ( stream .echo.v1.EchoRequest )" in run_grpcurl(
            socket, "describe", "echo.v1.EchoService"
        )
        reply = run_grpcurl(socket, "echo.v1.EchoService/Echo", data='{"message": "hi"}')
        assert json.loads(reply)["message"] == "hi"
        chat = run_grpcurl(
            socket, "echo.v1.EchoService/Chat", data='{"message": "a"}{"message": "b"}'
        )
        assert chat.count('"message"') == 2
        assert "meshtrio.v1.Control" in run_grpcurl(mesh.socket, "list").split()
