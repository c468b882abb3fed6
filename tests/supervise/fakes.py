"""Processes and questions that are not real, so that minutes of mesh life take no time.

A `Script` says how the next process of a plugin behaves; the tree under test cannot tell.
"""

from __future__ import annotations

import itertools
import os
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path
from random import Random
from typing import Any

import attrs
import trio

from meshtrio.config import GroupConfig, MeshConfig, PluginConfig
from meshtrio.registry.memory import MemoryRegistry
from meshtrio.supervise import events
from meshtrio.supervise.operations import Operations
from meshtrio.supervise.probe import Health, NotReadyError
from meshtrio.supervise.processes.activity import Sample
from meshtrio.supervise.processes.remains import Remains, RunIdentity
from meshtrio.supervise.surroundings import World
from meshtrio.supervise.tree import Tree
from meshtrio.supervise.vitals import Observation

FOREVER = float("inf")
SERVING = Health(alive=True, serving=True)
NOT_SERVING = Health(alive=True, serving=False, reason="its health check says NOT_SERVING")
SILENT = Health(alive=False, serving=False, reason="it did not answer")


@attrs.define
class Script:
    """One process: ready after so many seconds, ending by itself after so many."""

    ready: float = 0.0
    lives: float = FOREVER
    status: int = 1
    stops: float = 0.0
    """Seconds from SIGTERM to its end."""
    unkillable: bool = False
    answers: Sequence[Health] = (SERVING,)
    """To health checks, in turn; the last for ever."""
    refuses: OSError | None = None
    """Why it cannot be started."""


def _closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


class FakeProcess:
    def __init__(self, pid: int, script: Script) -> None:
        self.pid = pid
        self.pidfd = -1
        self.stdout, self.stderr = _closed_pipe(), _closed_pipe()
        self.returncode: int | None = None
        self.tracer = None
        self.leader_ended = trio.Event()
        self.script = script
        self.dumped = False
        self.ready_at = trio.current_time() + script.ready
        self._ends_at = trio.current_time() + script.lives
        self._answers = itertools.chain(script.answers, itertools.repeat(script.answers[-1]))

    def answer(self) -> Health:
        return next(self._answers)

    async def wait(self) -> None:
        if self.returncode is None:
            await trio.sleep_until(self._ends_at)
            self.returncode = self.script.status

    @property
    def ended(self) -> bool:
        return self.returncode is not None

    @property
    def reaped(self) -> bool:
        return self.ended

    def reap_later(self, then: Callable[[], None]) -> None:
        if self.reaped:
            then()

    def find_tracer(self) -> None:
        return None

    async def dump(self) -> None:
        self.dumped = True

    async def stop(self, grace: float) -> bool:
        forced = self.script.stops > grace
        await trio.sleep(min(self.script.stops, grace))
        if not self.script.unkillable:
            self.returncode = -9 if forced else 0
        return forced


class FakeWorld:
    """Spawns scripted processes, answers for them, and keeps a log of what happened when."""

    def __init__(self, scripts: Mapping[str, Iterable[Script]] | None = None) -> None:
        self._scripts = {name: iter(script) for name, script in (scripts or {}).items()}
        self._by_socket: dict[str, FakeProcess] = {}
        self._pids = itertools.count(1000)
        self.processes: dict[str, list[FakeProcess]] = defaultdict(list)
        self.resident: dict[int, int] = {}
        """Bytes by process group."""
        self.waited = 0.0
        """Seconds that each process has waited for a CPU."""
        self.guarded: set[int] = set()
        self.log: list[tuple[float, events.Event]] = []

    def world(self) -> World:
        return World(  # type: ignore[arg-type]
            guard=self,
            guarded=nullcontext,
            spawn=self.spawn,
            probe=self,
            rng=Random(0),
            resident_by_group=self.resident_by_group,
            sweep=self.sweep,
            is_removed=lambda socket: False,
            why_not_executed=self.why_not_executed,
            observe=self.observe,
        )

    # -- as the guard ------------------------------------------------------------------------

    def watch(self, pid: int, pidfd: int) -> None:
        self.guarded.add(pid)

    def forget(self, pid: int) -> None:
        self.guarded.remove(pid)

    def set_users(self, users: Iterable[int]) -> None:
        self.users = set(users)

    async def sweep(self, identity: RunIdentity) -> Remains:
        await trio.lowlevel.checkpoint()
        return Remains()

    async def resident_by_group(self) -> Mapping[int, int]:
        await trio.lowlevel.checkpoint()
        return self.resident

    async def observe(self, leader: int, address: str) -> Observation | None:
        await trio.lowlevel.checkpoint()
        if not self.waited:
            return None
        return Observation(Sample(trio.current_time(), longest_wait=self.waited), None)

    async def why_not_executed(self, config: PluginConfig) -> str:
        await trio.lowlevel.checkpoint()
        return ""

    # -- as the kernel -----------------------------------------------------------------------

    async def spawn(
        self,
        command: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path | None,
        cgroup: Path | None = None,
    ) -> Any:
        name = env["PLUGIN_NAME"]
        script = next(self._scripts.get(name, iter(())), None) or Script()
        if script.refuses is not None:
            raise script.refuses
        process = FakeProcess(next(self._pids), script)
        self.processes[name].append(process)
        self._by_socket[f"unix:{env['PLUGIN_SOCKET']}"] = process
        return process

    # -- as the probe ------------------------------------------------------------------------

    async def wait_ready(
        self, address: str, within: float, tls: Any = None, connect: Any = None
    ) -> None:
        process = self._by_socket[address]
        with trio.move_on_after(within):
            await trio.sleep_until(process.ready_at)
            return
        raise NotReadyError(within, "it is a fake")

    async def check(
        self, address: str, within: float, tls: Any = None, connect: Any = None
    ) -> Health:
        await trio.lowlevel.checkpoint()
        return self._by_socket[address].answer()


class Lab:
    """A tree in a fake world, and what it has reported so far."""

    def __init__(self, tree: Tree, world: FakeWorld, registry: MemoryRegistry) -> None:
        self.tree = tree
        self.world = world
        self.registry = registry
        self.operations = Operations(tree)
        self.began = trio.current_time()
        self.log: list[tuple[float, str]] = []

    def take(self, event: events.Event) -> None:
        who = event.plugin if not event.instance else f"{event.plugin}/{event.instance}"
        at = round(trio.current_time() - self.began, 3)
        self.log.append((at, f"{type(event).__name__} {who}"))

    def told(self, *kinds: str) -> list[str]:
        """What was reported of these kinds, in order, without the times."""
        return [text for _, text in self.log if text.split()[0] in kinds]

    def times(self, text: str) -> list[float]:
        return [at for at, said in self.log if said == text]

    def states(self) -> dict[str, str]:
        return {f"{s.name}/{s.instance}": s.state.value for s in self.tree.statuses()}

    async def run_until(self, seconds: float) -> None:
        """Let it live until so many seconds after its start."""
        await trio.sleep_until(self.began + seconds)
        await trio.testing.wait_all_tasks_blocked()


def plug(name: str, **settings: Any) -> PluginConfig:
    return PluginConfig(name=name, command=["true"], **settings)


@asynccontextmanager
async def lab(
    plugins: Sequence[PluginConfig],
    scripts: Mapping[str, Iterable[Script]] | None = None,
    groups: Sequence[GroupConfig] = (),
) -> AsyncIterator[Lab]:
    world, registry = FakeWorld(scripts), MemoryRegistry()
    tree = Tree(MeshConfig(plugins, groups), registry, Path("/run/fake"), world=world.world())
    made = Lab(tree, world, registry)
    tree.subscribe(made.take)
    async with trio.open_nursery() as nursery:
        await nursery.start(tree.run)
        yield made
        nursery.cancel_scope.cancel()
    assert len(world.guarded) == len(tree.report.left)
    assert not any(status.pid for status in tree.statuses())
