"""A mesh inside the test's own trio run, with what it reports."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import trio

from meshtrio import mesh
from meshtrio.config import MeshConfig, load
from meshtrio.structured import open_nursery_of_one
from meshtrio.supervise import events


@attrs.define
class Observed:
    """An event, and when it happened."""

    at: float
    event: events.Event


class Watched:
    """A running mesh and everything it has reported."""

    def __init__(self, running: mesh.Mesh) -> None:
        self.mesh = running
        self.seen: list[Observed] = []
        self._changed = trio.Event()
        self._scope: trio.CancelScope | None = None
        running.subscribe(self._take)

    def _take(self, event: events.Event) -> None:
        self.seen.append(Observed(trio.current_time(), event))
        self._changed.set()
        self._changed = trio.Event()

    def stop(self) -> None:
        """Have the mesh stopped, as its end of the block does."""
        assert self._scope is not None
        self._scope.cancel()

    def find(self, kind: type[events.Event], **wanted: Any) -> list[Observed]:
        """What was reported of a kind, with these values, oldest first."""
        return [
            observed
            for observed in self.seen
            if isinstance(observed.event, kind)
            and all(getattr(observed.event, name) == value for name, value in wanted.items())
        ]

    async def wait(self, kind: type[events.Event], *, count: int = 1, **wanted: Any) -> Observed:
        """Wait until a kind of event was reported `count` times, give the last of them."""
        return await self.wait_until(lambda: self.find(kind, **wanted)[count - 1 : count])

    async def wait_until(self, find: Callable[[], list[Observed]]) -> Observed:
        with trio.fail_after(120):
            while True:
                found = find()
                if found:
                    return found[-1]
                await self._changed.wait()

    async def wait_for_line(self, text: str) -> Observed:
        """Wait until a plugin has written a line with `text` in it."""
        return await self.wait_until(
            lambda: [
                observed
                for observed in self.find(events.LineWritten)
                if text in getattr(observed.event, "line")  # noqa: B009
            ]
        )


@asynccontextmanager
async def running(config: MeshConfig | str, folder: Path) -> AsyncIterator[Watched]:
    """Run a mesh, from a config or TOML, in a runtime dir below `folder` during the block."""
    if isinstance(config, str):
        (folder / "mesh.toml").write_text(config)
        config = load(folder / "mesh.toml")
    config = attrs.evolve(config, runtime_dir=folder / "run")
    async with open_nursery_of_one() as nursery:
        started = await nursery.start(mesh.main, config)
        watched = Watched(started)
        watched._scope = nursery.cancel_scope
        yield watched
        nursery.cancel_scope.cancel()
