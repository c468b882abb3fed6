"""Readiness: what counts as ready, and what is said of what is not."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from meshtrio.rpc.server import Server
from meshtrio.services.health import HealthServicer
from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.supervisor.probe import Connect, HealthCheckResult, NotReadyError, SocketProbe
from meshtrio.transport.dial import dial
from meshtrio.transport.listener import unix_listener
from tests.support.connection_pairs import CallbackServicer
from tests.support.http_responses import (
    HttpResponse,
    for_each_http_response,
    serve_http_response,
)


@asynccontextmanager
async def serving(path: Path, *servicers: Any) -> AsyncIterator[None]:
    with unix_listener(path) as listener:
        async with trio.open_nursery() as nursery:
            await nursery.start(Server(*servicers).serve, listener)
            yield
            nursery.cancel_scope.cancel()


def dial_in(directory: Path) -> Connect:
    return partial(dial, f"unix:{directory / 's'}", None)


async def missing(path: Path) -> str:
    with pytest.raises(NotReadyError) as caught:
        await SocketProbe().wait_ready(0.1, partial(dial, f"unix:{path}", None))
    return str(caught.value)


async def test_serving_is_ready(short_dir: Path) -> None:
    async with serving(short_dir / "s", HealthServicer()):
        await SocketProbe().wait_ready(5, dial_in(short_dir))


async def test_a_server_without_health_is_ready(short_dir: Path) -> None:
    async with serving(short_dir / "s", CallbackServicer()):
        await SocketProbe().wait_ready(5, dial_in(short_dir))


async def test_not_serving_is_not_yet(short_dir: Path) -> None:
    health = HealthServicer()
    health.shutdown_started.set()
    async with serving(short_dir / "s", health):
        assert "NOT_SERVING" in await missing(short_dir / "s")


async def test_a_socket_that_is_not_there_yet(short_dir: Path) -> None:
    assert "has not bound its socket" in await missing(short_dir / "s")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(SocketProbe().wait_ready, 5, dial_in(short_dir))
        await trio.testing.wait_all_tasks_blocked()
        async with serving(short_dir / "s", HealthServicer()):
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


@for_each_http_response
async def test_a_server_that_answers_with_a_page_is_ready_if_that_maps_to_unimplemented(
    short_dir: Path, page: HttpResponse
) -> None:
    async with serve_http_response(short_dir / "s", page):
        found = await SocketProbe().check(5, dial_in(short_dir))
        ready = page.grpc_code == "UNIMPLEMENTED"
        assert (found.is_alive, found.is_serving) == (ready, ready)
        if ready:
            await SocketProbe().wait_ready(5, dial_in(short_dir))
        else:
            assert f"its health check failed with {page.grpc_code}" in found.reason


async def test_a_check_counts_for_the_mesh_if_that_waited_for_a_cpu(
    short_dir: Path,
) -> None:
    waited = iter([10.0, 10.01, 20.0, 20.09])
    probe = SocketProbe(lambda: next(waited))
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(short_dir / "s"))
        sock.listen()
        for expected in (Condition.STUCK, Condition.MESH_OVERLOADED):
            found = await probe.check(0.1, dial_in(short_dir))
            assert (found.is_alive, found.condition) == (False, expected)
    assert "the mesh waited for a CPU 90 % of the time" in found.reason


@pytest.mark.parametrize("kind", ["unix", "tcp"])
async def test_a_mesh_without_descriptors_asks_again_when_it_has_some(
    short_dir: Path, kind: str
) -> None:
    server = Server(HealthServicer())
    if kind == "unix":
        listener, address = socket.socket(socket.AF_UNIX), f"unix:{short_dir / 's'}"
        listener.bind(str(short_dir / "s"))
        listener.listen()
    else:
        listener = socket.create_server(("127.0.0.1", 0))
        address = f"tcp:127.0.0.1:{listener.getsockname()[1]}"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with trio.open_nursery() as nursery:
        await nursery.start(server.serve, listener)
        # Numbers below three stay taken.
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        found: list[HealthCheckResult] = []

        async def check() -> None:
            found.append(await SocketProbe().check(0.05, partial(dial, address, None)))

        try:
            async with trio.open_nursery() as checking:
                checking.start_soon(check)
                await trio.sleep(0.3)
                assert found == []
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert found[0].is_alive
        nursery.cancel_scope.cancel()


async def test_a_mesh_without_local_ports_does_not_take_a_plugin_for_dead() -> None:
    async def no_port() -> Any:
        await trio.lowlevel.checkpoint()
        raise OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))

    found = await SocketProbe().check(5, no_port)
    assert (found.is_alive, found.condition) == (False, Condition.MESH_OVERLOADED)
