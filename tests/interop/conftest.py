"""One mesh with a peer on each stack, which most tests of foreign stacks share."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from meshtrio import mesh
from meshtrio.client.channel import connect_to
from tests.interop.foreign_peers import (
    LATE_FRAMES_PLUGIN,
    MESHTRIO_PLUGIN,
    STACKS,
    WEB_SERVER_PLUGIN,
    ForeignClient,
    MeshtrioClient,
    foreign_client,
    foreign_peer_table,
    meshtrio_peer_table,
    target_metadata,
)
from tests.interop.messages import SERVICE
from tests.support.interop_peers import ConnectForeignClient, ConnectMeshtrioClient, PeerMesh
from tests.support.mesh_processes import plugin_table, serve_mesh
from tests.support.ports import find_free_port


@pytest.fixture(scope="package")
def peers() -> Iterator[PeerMesh]:
    """A running mesh with a plugin on each stack."""
    port = find_free_port()
    config = f'[mesh.gateway]\nlisten = "tcp://127.0.0.1:{port}"\nsecurity = "plaintext"\n'
    config += meshtrio_peer_table() + plugin_table(
        LATE_FRAMES_PLUGIN, "late_frames.py", services=[SERVICE]
    )
    config += "".join(foreign_peer_table(stack) for stack in STACKS)
    config += foreign_peer_table("js", "page", name=WEB_SERVER_PLUGIN)
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with serve_mesh(Path(folder), config, min_ready=3 + len(STACKS)) as running:
            yield PeerMesh(running, port)


@pytest.fixture
def our_client(peers: PeerMesh) -> ConnectMeshtrioClient:
    """Return a function that connects a meshtrio client: `async with our_client(stack, route)`."""

    @asynccontextmanager
    async def connected(name: str, route: str, **options: Any) -> AsyncIterator[MeshtrioClient]:
        socket = peers.mesh.socket
        if route == "direct":
            async with mesh.connect(f"plugin.{name}", mesh_socket=socket, **options) as channel:
                yield MeshtrioClient(channel)
        else:
            async with connect_to(f"unix:{socket}", **options) as channel:
                yield MeshtrioClient(channel, target_metadata(name))

    return connected


@pytest.fixture(scope="package")
def their_client(peers: PeerMesh) -> Iterator[ConnectForeignClient]:
    """Return a function that gives the client of a foreign stack, connected to a plugin."""
    running: dict[tuple[str, str, str], ForeignClient] = {}
    with ExitStack() as stack:

        def connected(name: str, route: str, to: str = MESHTRIO_PLUGIN) -> ForeignClient:
            if (name, route, to) not in running:
                client = foreign_client(name, peers.address(to, route), target_metadata(to))
                running[name, route, to] = stack.enter_context(client)
            return running[name, route, to]

        yield connected
