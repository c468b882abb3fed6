"""Readiness: what counts as ready, and what is said of what is not."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from meshtrio.rpc.listener import unix_listener
from meshtrio.rpc.server import Server
from meshtrio.services.health import HealthServicer
from meshtrio.supervise.probe import NotReadyError, SocketProbe
from tests.rpc.pages import Page, all_pages, answering
from tests.rpc.pairs import Scripted


@asynccontextmanager
async def serving(path: Path, *servicers: Any) -> AsyncIterator[None]:
    with unix_listener(path) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(Server(*servicers).serve, listener)
            yield
            nursery.cancel_scope.cancel()


async def missing(path: Path) -> str:
    with pytest.raises(NotReadyError) as caught:
        await SocketProbe().wait_ready(f"unix:{path}", 0.1)
    return str(caught.value)


async def test_serving_is_ready(short_dir: Path) -> None:
    async with serving(short_dir / "s", HealthServicer([])):
        await SocketProbe().wait_ready(f"unix:{short_dir / 's'}", 5)


async def test_a_server_without_health_is_ready(short_dir: Path) -> None:
    async with serving(short_dir / "s", Scripted()):
        await SocketProbe().wait_ready(f"unix:{short_dir / 's'}", 5)


async def test_not_serving_is_not_yet(short_dir: Path) -> None:
    health = HealthServicer([])
    health.stop_serving()
    async with serving(short_dir / "s", health):
        assert "NOT_SERVING" in await missing(short_dir / "s")


async def test_a_socket_that_is_not_there_yet(short_dir: Path) -> None:
    assert "has not bound its socket" in await missing(short_dir / "s")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(SocketProbe().wait_ready, f"unix:{short_dir / 's'}", 5)
        await trio.testing.wait_all_tasks_blocked()
        async with serving(short_dir / "s", HealthServicer([])):
            while nursery.child_tasks:
                await trio.lowlevel.checkpoint()


async def test_a_socket_that_nobody_listens_on(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(short_dir / "s"))
        assert "refuses connections" in await missing(short_dir / "s")


async def test_a_socket_that_never_answers(short_dir: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(short_dir / "s"))
        sock.listen()
        assert "did not answer the health check" in await missing(short_dir / "s")


@all_pages
async def test_a_server_that_answers_with_a_page_is_ready_if_that_maps_to_unimplemented(
    short_dir: Path, page: Page
) -> None:
    async with answering(short_dir / "s", page):
        found = await SocketProbe().check(f"unix:{short_dir / 's'}", 5)
        ready = page.code == "UNIMPLEMENTED"
        assert (found.alive, found.serving) == (ready, ready)
        if ready:
            await SocketProbe().wait_ready(f"unix:{short_dir / 's'}", 5)
        else:
            assert f"its health check failed with {page.code}" in found.reason
