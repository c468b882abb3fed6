"""Busy polling of both sides of calls, and the ways to turn it off."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio.client.channel import connect_to
from meshtrio.errors import UsageError
from meshtrio.rpc.server import Server
from meshtrio.transport.busy_poll import BusyPoll
from meshtrio.transport.transport import Transport
from tests.support.connection_pairs import CallbackServicer, echo_reply, echo_request
from tests.support.in_process_mesh import run_mesh
from tests.support.servers import serve_on_socket


async def reply(message: Any) -> Any:
    return echo_reply(message.message)


@pytest.fixture
def polled(monkeypatch: pytest.MonkeyPatch) -> Iterator[set[int]]:
    """The sockets that were polled, by descriptor, where each wait is to begin with a poll."""
    found = set()
    try_receive = Transport._try_receive

    def record_poll(self: Transport, *args: Any) -> Any:
        data = try_receive(self, *args)
        if data is None and self.busy_poll.poll_time:  # A task that sleeps does not look for data.
            found.add(self.sock.fileno())
        return data

    def always_poll(self: BusyPoll, *_: float) -> None:
        self.poll_time = self.max_poll

    monkeypatch.delenv("MESHTRIO_BUSY_POLL", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr(Transport, "_try_receive", record_poll)
    monkeypatch.setattr(BusyPoll, "record_wait", always_poll)
    return found


async def make_calls(folder: Path, client: float | None, server: float | None) -> None:
    serving = Server(CallbackServicer(Echo=reply), max_busy_poll=server)
    async with (
        serve_on_socket(folder / "s", serving),
        connect_to(f"unix:{folder / 's'}", max_busy_poll=client) as channel,
    ):
        echo = channel.stub(EchoServiceStub).Echo
        for _ in range(5):
            assert (await echo(echo_request("x"))).message == "x"


@pytest.mark.parametrize(
    ("client", "server", "sides"),
    [(None, None, 2), (0.0001, 0.0001, 2), (0, None, 1), (None, 0, 1), (0, 0, 0)],
)
async def test_options_of_both_sides(
    client: float | None, server: float | None, sides: int, polled: set[int], short_dir: Path
) -> None:
    await make_calls(short_dir, client, server)
    assert len(polled) == sides


@pytest.mark.parametrize("option", [None, 0.001])
async def test_the_variable_turns_it_off_for_the_process(
    option: float | None,
    polled: set[int],
    short_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MESHTRIO_BUSY_POLL", "off")
    await make_calls(short_dir, option, option)
    assert not polled


async def test_an_invalid_variable_is_an_error_of_both_sides(
    short_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MESHTRIO_BUSY_POLL", "sometimes")
    with pytest.raises(UsageError, match=r"MESHTRIO_BUSY_POLL='sometimes': set \"off\", or"):
        async with connect_to(f"unix:{short_dir / 's'}"):
            pass
    with pytest.raises(UsageError, match=r"MESHTRIO_BUSY_POLL='sometimes': set \"off\", or"):
        Server()


async def test_the_config_turns_it_off_for_a_mesh(polled: set[int], short_dir: Path) -> None:
    address = f"unix:{short_dir / 's'}"
    config = (
        "[mesh.gateway]\nmax_busy_poll = 0\n"
        f'[[service]]\nname = "x"\nendpoints = ["{address}"]\n'
        'services = ["echo.v1.EchoService"]\n'
    )
    server = Server(CallbackServicer(Echo=reply), max_busy_poll=0)
    async with (
        serve_on_socket(short_dir / "s", server),
        run_mesh(config, short_dir) as running,
        connect_to(f"unix:{running.mesh.socket}", max_busy_poll=0) as channel,
    ):
        for _ in range(5):
            await channel.stub(EchoServiceStub).Echo(echo_request("x"))
    assert not polled


async def test_channels_share_a_connection_only_with_the_same_maximum(short_dir: Path) -> None:
    server = Server(CallbackServicer(Echo=reply))
    async with serve_on_socket(short_dir / "s", server):
        address = f"unix:{short_dir / 's'}"
        async with (
            connect_to(address, max_busy_poll=0.001) as one,
            connect_to(address, max_busy_poll=0.001) as same,
            connect_to(address, max_busy_poll=0) as other,
        ):
            for channel in (one, same, other):
                await channel.stub(EchoServiceStub).Echo(echo_request("x"))
            assert len(server.connections) == 2
