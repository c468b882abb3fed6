"""The nursery tree of a mesh: its warden, and every instance of every plugin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from random import Random

import trio

from meshtrio import runtime_dir
from meshtrio.config import MeshConfig
from meshtrio.registry import Registry
from meshtrio.structured import running
from meshtrio.supervise import events
from meshtrio.supervise.instance import Instance, Status, Surroundings
from meshtrio.supervise.warden import Warden


class Tree:
    """Owns all plugin processes of a mesh between the start of `run` and its end."""

    def __init__(
        self,
        config: MeshConfig,
        registry: Registry,
        folder: Path,
        subscribers: Sequence[events.Subscriber] = (),
    ) -> None:
        self.mesh_socket = runtime_dir.mesh_socket(folder)
        self._warden = Warden(folder)
        self._subscribers = list(subscribers)
        mesh = Surroundings(registry, self._warden, Random(), self.mesh_socket, self._emit)
        self._instances = [
            Instance(plugin, number, runtime_dir.plugin_socket(folder, plugin.name, number), mesh)
            for plugin in config.plugins
            for number in range(plugin.instances)
        ]
        for plugin in config.plugins:
            registry.declare(plugin.service)

    def _emit(self, event: events.Event) -> None:
        """Tell the subscribers; they are called in place and may not block."""
        for subscriber in self._subscribers:
            subscriber(event)

    def subscribe(self, subscriber: events.Subscriber) -> None:
        self._subscribers.append(subscriber)

    def statuses(self) -> tuple[Status, ...]:
        """Every instance as it is now, in the order of the config."""
        return tuple(instance.status() for instance in self._instances)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start every plugin and keep it until cancelled; no process is left after that.

        The warden outlives the plugins, so that a mesh killed while it stops leaves none either.
        """
        async with running(self._warden.run), trio.open_nursery() as nursery:
            for instance in self._instances:
                nursery.start_soon(instance.run)
            task_status.started()
            await trio.sleep_forever()
