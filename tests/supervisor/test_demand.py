"""Watching the socket of an idle instance."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trio

from meshtrio.config import PluginConfig, StartMethod
from meshtrio.supervisor.demand import DemandWatch
from meshtrio.supervisor.held_socket import HeldSocket
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.policy.state import InstancePhase
from tests.support.ports import find_free_port

PLUGIN = PluginConfig("p", ["program"], listen_fds=True, start=StartMethod.ON_DEMAND)


class Watched:
    def __init__(self, address: str, folder: Path) -> None:
        self.watch = DemandWatch(PLUGIN, HeldSocket(address))
        self.opened = trio.Event()
        self.demanded = trio.Event()
        self._folder = folder

    async def run(self) -> None:
        await self.watch.run(self._folder, self.opened.set, self.demanded.set)


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, short_dir: Path) -> str:
    if request.param == "unix":
        return f"unix:{short_dir}/p-0.held.sock"
    return f"tcp:127.0.0.1:{find_free_port()}"


def connect(address: str) -> socket.socket:
    if address.startswith("unix:"):
        sock = socket.socket(socket.AF_UNIX)
        try:
            sock.connect(address.removeprefix("unix:"))
        except OSError:
            sock.close()
            raise
        return sock
    return socket.create_connection(("127.0.0.1", int(address.rpartition(":")[2])))


async def test_a_connection_is_demand_and_is_not_accepted(address: str, short_dir: Path) -> None:
    watched = Watched(address, short_dir)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run)
        await watched.opened.wait()
        assert watched.watch.is_open
        with connect(address) as client:
            await watched.demanded.wait()
            with socket.socket(fileno=os.dup(watched.watch.held.fileno)) as copy:
                copy.setblocking(False)
                copy.accept()[0].close()
            assert client.recv(1) == b""
    assert watched.watch.is_over
    watched.watch.held.close()


async def test_closing_the_socket_ends_it(address: str, short_dir: Path) -> None:
    watched = Watched(address, short_dir)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run)
        await watched.opened.wait()
        watched.watch.held.close()
    assert watched.watch.is_over
    assert not watched.demanded.is_set()


async def test_cancelled_before_it_begins_it_binds_nothing(address: str, short_dir: Path) -> None:
    watched = Watched(address, short_dir)
    watched.watch.cancel()
    await watched.run()
    assert not watched.opened.is_set()
    with pytest.raises(OSError):  # noqa: PT011 - refused, or no such file
        connect(address)


async def test_a_socket_that_cannot_be_bound_is_demand() -> None:
    watched = Watched("unix:/absent/p.sock", Path("/absent"))
    await watched.run()
    assert watched.demanded.is_set()
    assert not watched.opened.is_set()


def test_calls_are_reported_while_it_is_idle_or_demanded() -> None:
    instance = Instance(PLUGIN, 0)
    assert (instance.phase, instance.awaits_demand) == (InstancePhase.IDLE, True)
    instance.request_demand()
    assert (instance.phase, instance.awaits_demand) == (InstancePhase.WAITING, True)
    instance.request_stop()
    assert (instance.phase, instance.awaits_demand) == (InstancePhase.STOPPED, False)
    instance.request_demand()
    assert (instance.phase, instance.awaits_demand) == (InstancePhase.STOPPED, False)
    instance.request_start()
    assert (instance.phase, instance.awaits_demand) == (InstancePhase.WAITING, False)
    other = Instance(attrs.evolve(PLUGIN, start=StartMethod.EXEC), 0)
    other.request_demand()
    assert (other.phase, other.awaits_demand) == (InstancePhase.WAITING, False)


def test_calls_are_reported_while_its_idle_process_is_being_stopped() -> None:
    instance: Any = Instance(PLUGIN, 0)
    instance.phase, instance.active_run = InstancePhase.IDLING, SimpleNamespace(ready_at=1.0)
    assert instance.awaits_demand
    instance.request_demand()
    assert (instance.phase, instance.awaits_demand) == (InstancePhase.RESTARTING, True)
    instance.phase, instance.active_run = InstancePhase.WAITING, None
    assert instance.awaits_demand
    instance.phase, instance.active_run = InstancePhase.RUNNING, SimpleNamespace(ready_at=None)
    assert instance.awaits_demand
    instance.active_run.ready_at = 2.0
    assert not instance.awaits_demand


async def test_a_file_that_is_gone_is_noticed(short_dir: Path) -> None:
    path = short_dir / "p-0.held.sock"
    watched = Watched(f"unix:{path}", short_dir)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watched.run)
        await watched.opened.wait()
        assert not watched.watch.is_path_lost
        path.unlink()
        assert watched.watch.is_path_lost
        watched.watch.cancel()
    watched.watch.held.close()


def test_a_group_restart_waits_for_an_idle_process_and_does_not_start_it_again() -> None:
    instance: Any = Instance(PLUGIN, 0)
    instance.phase = InstancePhase.IDLING
    instance.request_restart(3)
    assert (instance.phase, instance.batch) == (InstancePhase.IDLING, 3)


def test_calls_do_not_wait_for_one_that_has_ended_before_it_was_ready() -> None:
    instance: Any = Instance(PLUGIN, 0)
    for was_ready in (False, True):
        instance.phase = InstancePhase.RUNNING
        instance.await_demand(instance.history, 5.0, was_ready=was_ready)
        assert (instance.phase, instance.awaits_demand) == (InstancePhase.IDLE, was_ready)
        # A connection waits in the backlog all the time.
        instance.request_demand()
        assert (instance.phase, instance.awaits_demand) == (InstancePhase.WAITING, was_ready)
