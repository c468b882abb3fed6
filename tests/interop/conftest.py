"""One mesh with a peer on each stack, which most tests of foreign stacks share."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest

from meshtrio import mesh
from meshtrio.client.channel import connect_to
from tests.interop.foreign import (
    LATE,
    OURS,
    PAGE,
    STACKS,
    ForeignClient,
    OurClient,
    foreign_client,
    foreign_plugin,
    our_plugin,
    target,
)
from tests.interop.messages import SERVICE
from tests.programs import Served, plugin, served

ROUTES = ("direct", "gateway")
"""Calls go straight to the plugin's socket, or are passed on by the mesh socket."""
THEIR_ROUTES = (*ROUTES, "tcp")
"""Of foreign clients: to the gateway on TCP as well."""


@attrs.frozen
class Peers:
    """The shared mesh, and the port of its gateway."""

    mesh: Served
    port: int

    def address(self, name: str, route: str) -> str:
        """Where a foreign client reaches a plugin."""
        if route == "tcp":
            return f"127.0.0.1:{self.port}"
        socket = f"{name}-0.sock" if route == "direct" else "mesh.sock"
        return f"unix:{self.mesh.folder / socket}"


OurConnect = Callable[..., AbstractAsyncContextManager[OurClient]]
TheirConnect = Callable[..., ForeignClient]


@pytest.fixture(scope="package")
def peers() -> Iterator[Peers]:
    """A running mesh with a plugin on each stack."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    config = f'[mesh.gateway]\nlisten = "tcp://127.0.0.1:{port}"\nsecurity = "plaintext"\n'
    config += our_plugin() + plugin(LATE, "late_frames.py", services=[SERVICE])
    config += "".join(foreign_plugin(stack) for stack in STACKS)
    config += foreign_plugin("js", "page", name=PAGE)
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with served(Path(folder), config, ready=3 + len(STACKS)) as running:
            yield Peers(running, port)


@pytest.fixture
def our_client(peers: Peers) -> OurConnect:
    """What connects a meshtrio client: `async with our_client(stack, route) as client`."""

    @asynccontextmanager
    async def connected(name: str, route: str, **options: Any) -> AsyncIterator[OurClient]:
        socket = peers.mesh.socket
        if route == "direct":
            async with mesh.connect(f"plugin.{name}", mesh_socket=socket, **options) as channel:
                yield OurClient(channel)
        else:
            async with connect_to(f"unix:{socket}", **options) as channel:
                yield OurClient(channel, target(name))

    return connected


@pytest.fixture(scope="package")
def their_client(peers: Peers) -> Iterator[TheirConnect]:
    """What gives the client on a foreign stack, connected to the plugin on meshtrio or another."""
    running: dict[tuple[str, str, str], ForeignClient] = {}
    with ExitStack() as stack:

        def connected(name: str, route: str, to: str = OURS) -> ForeignClient:
            if (name, route, to) not in running:
                client = foreign_client(name, peers.address(to, route), target(to))
                running[name, route, to] = stack.enter_context(client)
            return running[name, route, to]

        yield connected
