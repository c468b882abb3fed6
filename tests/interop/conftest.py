"""One mesh with a peer on each stack, which most tests of foreign stacks share."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from meshtrio import mesh
from meshtrio.client.channel import connect_to
from tests.interop.foreign import (
    OURS,
    STACKS,
    ForeignClient,
    OurClient,
    foreign_client,
    foreign_plugin,
    our_plugin,
    target,
)
from tests.programs import Served, served

ROUTES = ("direct", "gateway")
"""Calls go straight to the plugin's socket, or are passed on by the mesh socket."""

OurConnect = Callable[[str, str], AbstractAsyncContextManager[OurClient]]
TheirConnect = Callable[[str, str], ForeignClient]


@pytest.fixture(scope="package")
def peers() -> Iterator[Served]:
    """A running mesh with a plugin on each stack."""
    config = our_plugin() + "".join(foreign_plugin(stack) for stack in STACKS)
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with served(Path(folder), config, ready=1 + len(STACKS)) as running:
            yield running


@pytest.fixture
def our_client(peers: Served) -> OurConnect:
    """What connects a meshtrio client: `async with our_client(stack, route) as client`."""

    @asynccontextmanager
    async def connected(name: str, route: str) -> AsyncIterator[OurClient]:
        if route == "direct":
            async with mesh.connect(f"plugin.{name}", mesh_socket=peers.socket) as channel:
                yield OurClient(channel)
        else:
            async with connect_to(f"unix:{peers.socket}") as channel:
                yield OurClient(channel, target(name))

    return connected


@pytest.fixture(scope="package")
def their_client(peers: Served) -> Iterator[TheirConnect]:
    """What gives the client on a foreign stack, connected to the plugin on meshtrio."""
    running: dict[tuple[str, str], ForeignClient] = {}
    contexts = []

    def connected(stack: str, route: str) -> ForeignClient:
        if (stack, route) not in running:
            socket = peers.folder / f"{OURS}-0.sock" if route == "direct" else peers.socket
            context = foreign_client(stack, f"unix:{socket}", target(OURS))
            contexts.append(context)
            running[stack, route] = context.__enter__()
        return running[stack, route]

    yield connected
    for context in contexts:
        context.__exit__(None, None, None)
