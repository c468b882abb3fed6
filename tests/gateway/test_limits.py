"""The limits of [mesh.gateway] hold on the mesh socket of a real mesh."""

from __future__ import annotations

from pathlib import Path

import purerpc
import pytest
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.client.channel import connect_to
from meshtrio.http2.errors import ErrorCode
from tests.deadline_storm import run_rapid_reset_attack
from tests.support.in_process_mesh import run_mesh
from tests.support.mesh_processes import echo_plugin_table

CONFIG = """
[mesh.gateway]
max_header_list_size = 2048
reset_burst = 50
reset_rate = 0
"""


async def test_header_lists(short_dir: Path) -> None:
    async with run_mesh(CONFIG + echo_plugin_table(), short_dir) as mesh:
        async with connect_to(
            f"unix:{mesh.mesh.socket}", metadata=[("x-mesh-target", "plugin.echo")]
        ) as channel:
            stub = channel.stub(EchoServiceStub)
            await stub.Echo(EchoRequest(message="hi"))
            with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 2048 bytes"):
                await stub.Echo(EchoRequest(message="hi"), metadata=[("large", "v" * 2000)])


async def test_resets(short_dir: Path) -> None:
    async with run_mesh(CONFIG + echo_plugin_table(), short_dir) as mesh:
        reason, streams = await run_rapid_reset_attack(mesh.mesh.socket)
        assert reason == ErrorCode.ENHANCE_YOUR_CALM.name
        assert streams < 5000
