"""Connects to a held socket again and again while the plugin behind it is restarted."""

from __future__ import annotations

import os
import signal
from enum import Enum
from pathlib import Path

import attrs
import trio
from echo.v1.echo_pb2 import DESCRIPTOR, EchoRequest

from meshtrio.config import MeshConfig, PluginConfig, StartMethod
from meshtrio.errors import ConnectionLostError
from meshtrio.rpc.one_shot_call import OneShotCall
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor
from meshtrio.supervisor import events
from meshtrio.transport.dial import connect_socket
from meshtrio.transport.transport import Transport
from meshtrio.util.backoff import Backoff
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.mesh_processes import ECHO_PLUGIN_DIRECTORY

_CLIENTS = 20
_ECHO = OneShotCall(
    method_from_descriptor(DESCRIPTOR.services_by_name["EchoService"].methods_by_name["Echo"]),
    EchoRequest(message="hi"),
)


class Restart(Enum):
    """How the plugin is restarted."""

    KILL = "kill"
    """Its process is killed, and started again by the restart policy."""
    ROLLING = "rolling"
    """It is replaced by a successor."""


@attrs.define
class ConnectCounts:
    """What has become of connections."""

    answered: int = 0
    """The call on it had a reply."""
    refused: int = 0
    """It could not be made."""
    cut: int = 0
    """It ended without a reply; the call was repeated on another one."""
    pids: set[int] = attrs.field(factory=set)
    """The processes that were ready meanwhile."""
    changed: trio.Event = attrs.field(factory=trio.Event)
    """Set, and replaced, at each change."""

    def count(self, *, answered: int = 0, refused: int = 0, cut: int = 0) -> None:
        self.answered += answered
        self.refused += refused
        self.cut += cut
        self.changed.set()
        self.changed = trio.Event()


def held_echo_plugin(
    *command: str, listen: str | None = None, start: StartMethod = StartMethod.EXEC
) -> PluginConfig:
    """A plugin with a held socket that has a method Echo; by default the example."""
    return PluginConfig(
        "echo",
        command or ["{python}", "echo_plugin.py"],
        cwd=ECHO_PLUGIN_DIRECTORY,
        listen=listen,
        listen_fds=True,
        start=start,
        backoff=Backoff(initial=0.01, maximum=0.01),
        ready_timeout=60.0,
    )


async def measure_connects(
    folder: Path, restart: Restart, plugin: PluginConfig, *, connects: int, restarts: int
) -> ConnectCounts:
    """Make connections while a plugin is restarted, each for one call."""
    counts = ConnectCounts()
    async with run_mesh(MeshConfig([plugin]), folder) as watched:
        await watched.wait_for_event(events.Ready)
        (status,) = watched.mesh.instances()
        address = plugin.listen or f"unix:{status.socket}"
        async with trio.open_nursery() as nursery:
            for _ in range(_CLIENTS):
                nursery.start_soon(_connect_repeatedly, address, counts, connects)
            for number in range(restarts):
                while counts.answered + counts.refused < number * connects // restarts:
                    await counts.changed.wait()
                await _restart(watched, restart)
        found = (each.event for each in watched.find_events(events.Ready))
        counts.pids = {event.pid for event in found if isinstance(event, events.Ready)}
    return counts


async def _connect_repeatedly(address: str, counts: ConnectCounts, connects: int) -> None:
    while counts.answered + counts.refused < connects:
        try:
            sock = await connect_socket(address, backlog_timeout=5)
        except OSError:
            counts.count(refused=1)
            continue
        try:
            reply = await _ECHO.call(Transport(sock))
        except ConnectionLostError:
            counts.count(cut=1)
            continue
        assert reply.message
        counts.count(answered=1)


async def _restart(watched: RecordedMesh, restart: Restart) -> None:
    if restart is Restart.ROLLING:
        await watched.mesh.restart("echo")
        return
    (status,) = watched.mesh.instances()
    assert status.pid is not None
    ready = len(watched.find_events(events.Ready))
    os.kill(status.pid, signal.SIGKILL)
    await watched.wait_for_event(events.Ready, count=ready + 1)
