"""One mesh with a peer on each stack, which most tests of foreign stacks share."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from meshtrio import mesh
from meshtrio.client.channel import connect_to
from tests.interop.foreign import (
    LATE,
    OURS,
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

OurConnect = Callable[[str, str], AbstractAsyncContextManager[OurClient]]
TheirConnect = Callable[..., ForeignClient]


@pytest.fixture(scope="package")
def peers() -> Iterator[Served]:
    """A running mesh with a plugin on each stack."""
    config = our_plugin() + plugin(LATE, "late_frames.py", services=[SERVICE])
    config += "".join(foreign_plugin(stack) for stack in STACKS)
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with served(Path(folder), config, ready=2 + len(STACKS)) as running:
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
    """What gives the client on a foreign stack, connected to the plugin on meshtrio or another."""
    running: dict[tuple[str, str, str], ForeignClient] = {}
    with ExitStack() as stack:

        def connected(name: str, route: str, to: str = OURS) -> ForeignClient:
            if (name, route, to) not in running:
                socket = peers.folder / f"{to}-0.sock" if route == "direct" else peers.socket
                client = foreign_client(name, f"unix:{socket}", target(to))
                running[name, route, to] = stack.enter_context(client)
            return running[name, route, to]

        yield connected
