"""What clients say of a mesh that is there and cannot take them now, or that they cannot reach."""

from __future__ import annotations

import resource
import socket
from pathlib import Path

import pytest

from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.errors import NoMeshError


async def test_a_mesh_with_a_full_backlog_is_not_said_to_be_missing(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(str(short_dir / "mesh.sock"))
        listener.listen(0)
        client.connect(str(short_dir / "mesh.sock"))
        with pytest.raises(NoMeshError, match=r"accepted no connection within .* overloaded"):
            async with connect_to_mesh(short_dir / "mesh.sock", accept_timeout=0.05):
                pass


async def test_a_client_without_descriptors_does_not_say_that_the_mesh_is_missing(
    short_dir: Path,
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(NoMeshError, match="Too many open files in this process") as caught:
            async with connect_to_mesh(short_dir / "mesh.sock"):
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "meshtrio serve" not in str(caught.value)
