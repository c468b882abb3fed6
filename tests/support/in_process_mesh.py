"""A mesh in the test's own trio run, and the lifecycle events that it reports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from meshtrio import mesh
from meshtrio.client import remote_mesh
from meshtrio.client.channel import Channel
from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.config import MeshConfig, load
from meshtrio.discovery.endpoint import ServiceState
from meshtrio.supervisor import events
from meshtrio.util.concurrency import open_collapsing_nursery


@attrs.define
class RecordedEvent:
    """An event, and when it happened."""

    time: float
    event: events.LifecycleEvent


class RecordedMesh:
    """A running mesh and all lifecycle events that it has reported."""

    def __init__(self, running: mesh.Mesh, scope: trio.CancelScope) -> None:
        self.mesh = running
        self.events: list[RecordedEvent] = []
        self._changed = trio.Event()
        self._scope = scope
        running.subscribe(self._on_event)

    def _on_event(self, event: events.LifecycleEvent) -> None:
        self.events.append(RecordedEvent(trio.current_time(), event))
        self._changed.set()
        self._changed = trio.Event()

    def stop(self) -> None:
        """Begin to stop the mesh, as the end of the `run_mesh` block does."""
        self._scope.cancel()

    async def resolve(self, service: str) -> ServiceState:
        """Ask the mesh for the state of a service, as clients in other processes do."""
        async with connect_to_mesh(self.mesh.socket) as channel:
            return await remote_mesh.resolve_remote_service(channel, service)

    def clear_events(self) -> None:
        """Forget the events so far."""
        self.events.clear()

    def find_events(self, kind: type[events.LifecycleEvent], **wanted: Any) -> list[RecordedEvent]:
        """Return the reported events of a kind, with these attributes, oldest first."""
        return [
            observed
            for observed in self.events
            if isinstance(observed.event, kind)
            and all(getattr(observed.event, name) == value for name, value in wanted.items())
        ]

    async def wait_for_event(
        self, kind: type[events.LifecycleEvent], *, count: int = 1, **wanted: Any
    ) -> RecordedEvent:
        """Wait until a kind of event was reported `count` times; return the last of them."""
        return await self.wait_until(lambda: self.find_events(kind, **wanted)[count - 1 : count])

    async def wait_until(self, find: Callable[[], list[RecordedEvent]]) -> RecordedEvent:
        """Wait until `find` finds events; return the last of them."""
        with trio.fail_after(120):
            while True:
                found = find()
                if found:
                    return found[-1]
                await self._changed.wait()

    async def wait_for_line(self, text: str) -> RecordedEvent:
        """Wait until a plugin has written a line that contains `text`."""
        return await self.wait_until(
            lambda: [
                observed
                for observed in self.find_events(events.LineWritten)
                if text in getattr(observed.event, "line")  # noqa: B009
            ]
        )


@asynccontextmanager
async def run_mesh(config: MeshConfig | str, folder: Path) -> AsyncIterator[RecordedMesh]:
    """Run a mesh, from a config or TOML, in a runtime dir below `folder` during the block."""
    if isinstance(config, str):
        (folder / "mesh.toml").write_text(config)
        config = load(folder / "mesh.toml")
    config = attrs.evolve(config, runtime_dir=folder / "run")
    async with open_collapsing_nursery() as nursery:
        started = await nursery.start(mesh.main, config)
        yield RecordedMesh(started, nursery.cancel_scope)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connect_in_process(watched: RecordedMesh) -> AsyncIterator[Channel]:
    async with watched.mesh.connect("plugin.chain") as channel:
        yield channel


@asynccontextmanager
async def connect_through_mesh_socket(watched: RecordedMesh) -> AsyncIterator[Channel]:
    async with mesh.connect("plugin.chain", mesh_socket=watched.mesh.socket) as channel:
        yield channel
