"""The nursery tree of a mesh: its warden, and the one task that decides what lives.

That task owns the table of instances. Whatever happens, the end of a life above all, is told to it
and makes it plan again; nobody else starts or stops a process.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

import trio

from meshtrio import runtime_dir
from meshtrio.config import MeshConfig
from meshtrio.errors import MeshFailedError
from meshtrio.registry import Registry
from meshtrio.structured import open_nursery_of_one
from meshtrio.supervise import events
from meshtrio.supervise.child import Child, Status
from meshtrio.supervise.escalation import Contained, MeshFails, Recent, companions, escalate
from meshtrio.supervise.life import Life
from meshtrio.supervise.plan import Goal, plan
from meshtrio.supervise.policy import Exit, Finish, GiveUp, History, Restart, decide
from meshtrio.supervise.state import State
from meshtrio.supervise.surroundings import Surroundings, World

_LEFT_ALONE = frozenset({State.STOPPED, State.EXITED})
"""At rest because somebody stopped it, or it was done: a group's restart does not change that."""


class Tree:
    """Owns all plugin processes of a mesh between the start of `run` and its end."""

    def __init__(
        self,
        config: MeshConfig,
        registry: Registry,
        folder: Path,
        subscribers: Sequence[events.Subscriber] = (),
        world: World | None = None,
    ) -> None:
        """`world` is what it is to use instead of real processes: a fake, in tests."""
        self.mesh_socket = runtime_dir.mesh_socket(folder)
        self._config = config
        self._relations = config.relations()
        self._dependencies = self._relations.dependencies()
        self._world = world or World.real(folder)
        self._subscribers = list(subscribers)
        self._surroundings = Surroundings(registry, self.mesh_socket, self._emit, self._world)
        self._children = [
            Child(plugin, number, runtime_dir.plugin_socket(folder, plugin.name, number))
            for plugin in config.plugins
            for number in range(plugin.instances)
        ]
        for plugin in config.plugins:
            registry.declare(plugin.service)
        self._ended: deque[tuple[Child, Life]] = deque()
        self._batches = itertools.count(1)
        self._recent: Recent = {}
        self._news = trio.Event()
        self._closing = False
        self._failure: MeshFailedError | None = None
        self._failed = trio.Event()

    def subscribe(self, subscriber: events.Subscriber) -> None:
        self._subscribers.append(subscriber)

    def _emit(self, event: events.Event) -> None:
        """Tell the subscribers; they are called in place and may not block."""
        for subscriber in self._subscribers:
            subscriber(event)

    def statuses(self) -> tuple[Status, ...]:
        """Every instance as it is now, in the order of the config."""
        return tuple(child.status() for child in self._children)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start every plugin and keep it until cancelled; no process is left after that.

        Plugins are stopped in the reverse of the order they are started in. The warden outlives
        them, so that a mesh killed while it stops leaves none either. Raises MeshFailedError, with
        everything stopped, when a plugin's failure was escalated to the mesh.
        """
        async with self._world.guarded(), open_nursery_of_one() as nursery:
            nursery.start_soon(self._keep)
            task_status.started()
            try:
                await self._failed.wait()
            finally:
                self._close()
        if self._failure is not None:
            raise self._failure

    def _close(self) -> None:
        self._closing = True
        for child in self._children:
            child.goal = Goal.REST
        self._wake()

    def _wake(self) -> None:
        """Have the keeper look again."""
        self._news.set()

    # -- the keeper --------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Plan and act until all is stopped. Shielded: cancellation comes here as `_close`."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as lives:
                while not self._closing or any(child.running for child in self._children):
                    self._news = trio.Event()
                    wake = self._act(lives)
                    with trio.move_on_at(wake):
                        await self._news.wait()
                    while self._ended:
                        self._bury(*self._ended.popleft())
        for child in self._children:
            if child.rest in (State.PENDING, State.BACKOFF):
                child.rest = State.STOPPED

    def _act(self, lives: trio.Nursery) -> float:
        todo = plan(self._children, self._dependencies, trio.current_time())
        for child in todo.stop:
            assert child.life is not None
            child.life.stop()
        for child in todo.start:
            life = Life(child.config, child.number, child.socket, self._surroundings, self._wake)
            child.life, child.batch = life, 0
            lives.start_soon(self._live, child, life)
        return todo.wake

    async def _live(self, child: Child, life: Life) -> None:
        await life.run()
        self._ended.append((child, life))
        self._wake()

    # -- ends --------------------------------------------------------------------------------

    def _bury(self, child: Child, life: Life) -> None:
        """Take over that a life has ended, and decide what follows."""
        assert life.ended is not None
        child.life = None
        child.reason = str(life.ended)
        if child.goal is Goal.RECYCLE:
            child.goal, child.rest = Goal.RUN, State.PENDING
        elif life.asked or child.goal is Goal.REST:
            child.rest = State.STOPPED
        else:
            self._decide(child, life.ended, life.uptime)

    def _decide(self, child: Child, ended: Exit, uptime: float) -> None:
        now = trio.current_time()
        decision = decide(child.config, child.history, ended, uptime, now, self._world.rng)
        match decision:
            case Restart(delay=delay, history=history):
                child.history, child.due, child.rest = history, now + delay, State.BACKOFF
                self._tell(child, events.Restarting, delay=delay)
                others = companions(self._relations, child.plugin)
                if others:
                    self._restart_together([child, *self._of(others)])
            case Finish(failed=failed):
                child.goal, child.rest = Goal.REST, State.FAILED if failed else State.EXITED
                self._tell(child, events.GaveUp, ended=ended)
            case GiveUp(restarts=restarts):
                child.goal, child.rest = Goal.REST, State.FAILED
                self._tell(child, events.GaveUp, ended=ended, restarts=restarts)
                self._escalate(child, ended, decision, now)

    def _escalate(self, child: Child, ended: Exit, given_up: GiveUp, now: float) -> None:
        verdict = escalate(self._relations, child.config, self._recent, now)
        if isinstance(verdict, Contained):
            return
        if isinstance(verdict, MeshFails):
            self._failure = MeshFailedError(
                child.plugin,
                child.number,
                given_up.restarts,
                given_up.period,
                verdict.groups,
                str(ended),
                ended.stderr_tail,
            )
            self._failed.set()
            return
        self._recent = verdict.recent
        self._tell(child, events.GroupRestarting, group=verdict.group, plugins=verdict.plugins)
        members = self._of(verdict.plugins)
        for member in members:
            # Afresh: what it had been through counts no more, but for the total.
            member.history = History(restarts=member.history.restarts)
        child.rest = State.BACKOFF
        self._restart_together(members)

    def _of(self, plugins: Iterable[str]) -> list[Child]:
        wanted = frozenset(plugins)
        return [child for child in self._children if child.plugin in wanted]

    def _restart_together(self, children: Iterable[Child]) -> None:
        """Stop those that run, and start none before all have stopped."""
        batch = next(self._batches)
        for child in children:
            if child.goal is Goal.REST and child.rest in _LEFT_ALONE:
                continue
            child.batch = batch
            child.goal = Goal.RECYCLE if child.running else Goal.RUN

    def _tell(self, child: Child, kind: type[events.Event], **values: object) -> None:
        self._emit(kind(child.plugin, child.number, **values))
