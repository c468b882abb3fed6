"""The nursery tree of a mesh: its warden, and the one task that decides what lives.

That task owns the table of instances. Whatever happens, the end of a life above all, is told to it
and makes it plan again; nobody else starts or stops a process.
"""

from __future__ import annotations

import itertools
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import attrs
import trio

from meshtrio import runtime_dir
from meshtrio.config import MeshConfig, PluginConfig, ServiceTable
from meshtrio.errors import MeshFailedError, UsageError
from meshtrio.registry import Registry, tables
from meshtrio.structured import next_beat, open_nursery_of_one
from meshtrio.supervise import events
from meshtrio.supervise.child import Child, Status
from meshtrio.supervise.decisions.escalation import (
    Contained,
    MeshFails,
    Recent,
    companions,
    escalate,
)
from meshtrio.supervise.decisions.plan import Goal, plan
from meshtrio.supervise.decisions.policy import Exit, Finish, GiveUp, History, Restart, decide
from meshtrio.supervise.decisions.state import State
from meshtrio.supervise.life import Life
from meshtrio.supervise.processes.remains import RunIdentity
from meshtrio.supervise.report import Reporter, ShutdownReport
from meshtrio.supervise.statistics import MeshStatistics, Tally
from meshtrio.supervise.subscribers import Subscribers
from meshtrio.supervise.surroundings import Surroundings, World

_log = logging.getLogger("meshtrio.mesh")

_LOOK_EVERY = 1.0
_NOTICE = 0.1
"""Seconds from leaving the registry to SIGTERM, while others of the mesh go on."""
_MAX_LEFT = 3
"""Processes of one instance that could not be killed and still run, beyond which it is not started
again: each start would leave another."""
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
        self._world = world or World.real(folder, config.cgroup)
        self._tally, self._reporter = Tally(), Reporter()
        self._failed = trio.Event()
        self._failure: BaseException | None = None
        self._subscribers = Subscribers(
            [self._tally.take, self._reporter.take, *subscribers], self._fail
        )
        self._began = trio.current_time()
        self._surroundings = Surroundings(
            registry, self.mesh_socket, self._subscribers.emit, self._world, self._telemetry
        )
        self._registry = registry
        self._tables: tuple[ServiceTable, ...] = ()
        self._services: set[str] = set()
        """Those that the config declares."""
        self._folder = folder
        self.children = [
            Child(plugin, number) for plugin in config.plugins for number in range(plugin.instances)
        ]
        self.configure(config)
        self._ended: deque[tuple[Child, Life]] = deque()
        self._batches = itertools.count(1)
        self._recent: Recent = {}
        self._news = trio.Event()
        self._turned = trio.lowlevel.ParkingLot()
        self._closing = False

    def configure(self, config: MeshConfig) -> None:
        """Go by this config from now on; instances are added and removed one by one."""
        self.config = config
        self._set_users()
        self._relations = config.relations()
        self._dependencies = self._relations.dependencies()
        by_name = {plugin.name: plugin for plugin in config.plugins}
        for child in self.children:
            before = child.config.output.log_level
            child.follow(by_name.get(child.plugin, child.config))
            if child.config.output.log_level is not before:
                self._tell(child, events.LogLevelSet, level=child.config.output.log_level)
        services = {plugin.service for plugin in config.plugins}
        services |= {table.name for table in config.services}
        for service in sorted(services):
            self._registry.declare(service)
        tables.follow(self._registry, self._tables, config.services)
        for service in self._services - services:
            self._registry.forget(service)
        self._tables, self._services = config.services, services

    def _set_users(self) -> None:
        """Have the guard know whose processes plugins are."""
        try:
            self._world.guard.set_users(runtime_dir.users_of(self.config))
        except OSError as exc:
            _log.error(
                "cannot record the users of plugins in the runtime dir: %s; should this mesh and "
                "its warden be killed, the next mesh there leaves their processes alone",
                exc.strerror,
            )

    def add(self, children: Iterable[Child]) -> None:
        """Take new instances on, in the order of the config."""
        order = {plugin.name: place for place, plugin in enumerate(self.config.plugins)}
        self.children += children
        self.children.sort(key=lambda child: (order[child.plugin], child.number))
        self._wake()

    def remove(self, children: Iterable[Child]) -> None:
        """Forget instances that rest."""
        gone = set(children)
        self.children = [child for child in self.children if child not in gone]

    def waited_for(self, child: Child) -> list[list[Child]]:
        """What an instance that does not run waits for: the instances of each plugin that it comes
        after, directly or not, and of which none is ready."""
        found: list[list[Child]] = []
        plugins = set() if child.running else {child.plugin}
        seen = set(plugins)
        while plugins:
            needed = self._dependencies.get(plugins.pop(), frozenset()) - seen
            seen |= needed
            for name in needed:
                instances = self._of([name])
                if not any(instance.ready for instance in instances):
                    found.append(instances)
                    plugins.add(name)
        return found

    def subscribe(self, subscriber: events.Subscriber) -> None:
        """Call `subscriber` with each event from now on; what it raises is logged."""
        self._subscribers.add(subscriber)

    def _fail(self, failure: BaseException) -> None:
        """Have `run` stop everything and raise this."""
        self._failure = self._failure or failure
        self._failed.set()

    def statuses(self) -> tuple[Status, ...]:
        """Every instance as it is now, in the order of the config."""
        return tuple(child.status(self._socket(child, child.place)) for child in self.children)

    def statistics(self) -> MeshStatistics:
        """The whole mesh in numbers, as it is now."""
        plugins = [plugin.name for plugin in self.config.plugins]
        children: defaultdict[str, list[Child]] = defaultdict(list)
        for child in self.children:
            children[child.plugin].append(child)
        return MeshStatistics(
            uptime=trio.current_time() - self._began,
            plugins=tuple(self._tally.of(name, [name], children) for name in plugins),
            groups=tuple(
                self._tally.of(group.name, self._relations.plugins_in(group.name), children)
                for group in self.config.groups
            ),
            total=self._tally.of("mesh", plugins, children),
        )

    @property
    def report(self) -> ShutdownReport:
        """How it came down, as far as it has."""
        return self._reporter.report

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start every plugin and keep it until cancelled; no process is left after that.

        Plugins are stopped in the reverse of the order they are started in. The warden outlives
        them, so that a mesh killed while it stops leaves none either. Raises MeshFailedError, with
        everything stopped, when a plugin's failure was escalated to the mesh, and so the SystemExit
        or KeyboardInterrupt of a subscriber.
        """
        async with self._world.guarded(), open_nursery_of_one() as nursery:
            nursery.start_soon(self._keep)
            nursery.start_soon(self._renew_what_is_due)
            task_status.started()
            try:
                await self._failed.wait()
            finally:
                self.close()
                nursery.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is so, as seen after the keeper has acted; cancellable.

        Raises UsageError where the mesh stops before it is.
        """
        self._wake()
        await trio.lowlevel.checkpoint()
        while not condition():
            if self._closing:
                raise UsageError("the mesh is stopping")
            await self._turned.park()

    def close(self) -> None:
        """Stop everything; `run` returns when it is. Does not wait."""
        self._closing = True
        self._reporter.begin()
        for child in self.children:
            child.goal = Goal.REST
        self._wake()

    def _telemetry(self, plugin: PluginConfig, number: int, place: int) -> dict[str, str]:
        telemetry = self.config.telemetry
        told = telemetry.environment(plugin, number, place)
        return told | telemetry.environment_of_log(plugin, self._folder)

    def _wake(self) -> None:
        """Have the keeper look again."""
        self._news.set()

    async def _renew_what_is_due(self) -> None:
        """Once a second: instances that are old or large are renewed, or killed for their size."""
        while True:
            await next_beat(_LOOK_EVERY)
            try:
                await self._look()
            except Exception:
                _log.exception("cannot see which instances are to be renewed")

    async def _look(self) -> None:
        watched = [child for child in self.children if child.process is not None]
        for child in self.children:
            child.left = tuple(each for each in child.left if each.runs)
        if any(child.config.watches_memory for child in watched):
            await self._look_at_memory(watched)
        for child in watched:
            for life in child.lives():
                life.look_at_socket()
            reason = child.overdue(self._world.rng, self._world.is_removed)
            if reason and not child.renewal:
                child.renewal = reason
                self._wake()

    async def _look_at_memory(self, watched: Iterable[Child]) -> None:
        try:
            resident = await self._world.resident_by_group()
        except (OSError, RuntimeError) as exc:
            _log.warning("cannot see how much memory plugins use: %s", exc)
            return
        for child in watched:
            child.note_resident(resident)

    # -- the keeper --------------------------------------------------------------------------

    async def _keep(self) -> None:
        """Plan and act until all is stopped. Shielded: cancellation comes here as `close`."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as lives:
                while not self._closing or any(child.running for child in self.children):
                    self._news = trio.Event()
                    wake = self._act(lives)
                    with trio.move_on_at(wake):
                        await self._news.wait()
                    while self._ended:
                        self._bury(*self._ended.popleft())
                    self._turned.unpark_all()
        self._turned.unpark_all()
        for child in self.children:
            if child.rest in (State.PENDING, State.BACKOFF):
                child.rest = State.STOPPED

    def _act(self, lives: trio.Nursery) -> float:
        now = trio.current_time()
        todo = plan(self.children, self._dependencies, now, self.config.max_starting)
        for child in todo.stop:
            child.stop(0 if self._closing else _NOTICE)
        for child in todo.start:
            child.life, child.batch = self._begin(child, child.place, lives), 0
        for child in self.children:
            if child.renewal and child.ready and child.successor is None:
                self._tell(child, events.Renewing, reason=child.renewal)
                child.successor = self._begin(child, 1 - child.place, lives)
            elif child.successor is not None and child.successor.ready:
                child.promote(_NOTICE)
        return todo.wake

    def _socket(self, child: Child, place: int) -> Path:
        return runtime_dir.plugin_socket(self._folder, child.config, child.number, place)

    def _begin(self, child: Child, place: int, lives: trio.Nursery) -> Life:
        socket = self._socket(child, place)
        life = Life(
            child.config, child.number, place, socket, self._surroundings, child.ring, self._wake
        )
        lives.start_soon(self._live, child, life)
        return life

    async def _live(self, child: Child, life: Life) -> None:
        await life.run()
        left = life.ended is not None and life.ended.left
        if left:
            # What follows depends on how many of its processes cannot be killed, this one included.
            await self._sweep(child, life.identity)
        self._ended.append((child, life))
        self._wake()
        if not left:
            await self._sweep(child, life.identity)

    async def _sweep(self, child: Child, identity: RunIdentity | None) -> None:
        """Kill what a process has left behind, and report what cannot be killed."""
        if identity is None:
            return
        try:
            remains = await self._world.sweep(identity)
        except Exception:
            _log.exception("cannot look for what %s/%d has left behind", child.plugin, child.number)
            return
        if remains.killed:
            self._tell(child, events.Swept, count=remains.killed)
        child.left += remains.left
        for each in remains.left:
            self._tell(child, events.LeftRunning, pid=each.pid, name=each.name, why=each.why)

    # -- ends --------------------------------------------------------------------------------

    def _bury(self, child: Child, life: Life) -> None:
        """Take over that a life has ended, and decide what follows."""
        assert life.ended is not None
        was_successor = life is child.successor
        orphaned = child.bury(life)
        if was_successor:
            delay = child.config.backoff.delay(child.renewal_failures, self._world.rng)
            child.renewal_due = trio.current_time() + delay
        if child.goal is Goal.RUN:
            if orphaned:
                child.reason = str(life.ended)
                self._decide(child, life.ended, life.since_ready)
        elif not child.running:
            child.reason = str(life.ended)
            child.rest = State.STOPPED
            if child.goal is Goal.RECYCLE:
                child.goal, child.rest = Goal.RUN, State.PENDING

    def _decide(self, child: Child, ended: Exit, since_ready: float | None) -> None:
        now = trio.current_time()
        if ended.left and len(child.left) > _MAX_LEFT:
            text = f"{ended}, as do {len(child.left) - 1} others of its processes"
            ended = attrs.evolve(ended, reason=f"{text}; it is not started again")
            child.goal, child.rest, child.reason = Goal.REST, State.FAILED, str(ended)
            self._tell(child, events.GaveUp, ended=ended)
            return
        decision = decide(child.config, child.history, ended, since_ready, now, self._world.rng)
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
            failure = MeshFailedError(
                child.plugin,
                child.number,
                given_up.restarts,
                given_up.period,
                verdict.groups,
                str(ended),
                ended.stderr_tail,
            )
            self._fail(failure)
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
        return [child for child in self.children if child.plugin in wanted]

    def _restart_together(self, children: Iterable[Child]) -> None:
        """Stop those that run, and start none before all have stopped."""
        batch = next(self._batches)
        for child in children:
            if child.goal is Goal.REST and child.rest in _LEFT_ALONE:
                continue
            child.batch = batch
            child.goal = Goal.RECYCLE if child.running else Goal.RUN

    def _tell(self, child: Child, kind: type[events.Event], **values: object) -> None:
        self._subscribers.emit(kind(child.plugin, child.number, **values))
