"""What can be asked of a running mesh. Each operation sets goals and waits until they are reached.

Cancelling one, or its deadline, ends the waiting; what was begun is still carried out, but for the
rest of a rolling restart, which goes on instance by instance as it is waited for.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack

import attrs
import trio

from meshtrio import runtime_dir
from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.errors import PluginFailedError, UnknownNameError, UsageError
from meshtrio.levels import LogLevel
from meshtrio.structured import open_nursery_of_one
from meshtrio.supervise.child import Child
from meshtrio.supervise.decisions.plan import Goal
from meshtrio.supervise.decisions.policy import Exit, History
from meshtrio.supervise.decisions.state import State
from meshtrio.supervise.life import Life
from meshtrio.supervise.processes.output import Line
from meshtrio.supervise.tree import Tree


@attrs.frozen
class Drained:
    """How an instance was stopped."""

    plugin: str
    instance: int
    ended: Exit | None
    """None where it was not running."""
    forced: bool = False
    """It had to be killed."""
    cut_calls: tuple[str, ...] = ()
    """Paths of the calls that its grace was too short for, as far as that is known."""
    cut_calls_known: bool = True
    """Whether `cut_calls` are all that were cut. Plugins on meshtrio report them at the end of
    their drain; of others, and of those that were killed before, it is not known."""


@attrs.frozen
class Reloaded:
    """What a new config changed, by the names of plugins."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    restarted: tuple[str, ...] = ()
    scaled: tuple[str, ...] = ()
    adjusted: tuple[str, ...] = ()
    """Of these, only how they are looked after has changed; their processes go on."""


class Operations:
    """On one tree. Names are those of plugins or groups; others raise UnknownNameError."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._changing: defaultdict[str, trio.Lock] = defaultdict(trio.Lock)
        """By plugin: held by who is changing its instances."""

    async def start(self, name: str) -> None:
        """Start what does not run, and wait until all of it is ready.

        What had failed, or waits to be restarted, is started at once. Raises PluginFailedError as
        soon as an instance, or one that it waits for, fails to start; its restart policy still
        applies.
        """
        children = self._children(name)
        for child in children:
            self._revive(child)
        await self._until_ready(children)

    async def stop(self, name: str) -> None:
        """Stop it and wait until it is gone. It stays so until `start`, whatever its policy."""
        await self.drain(name)

    async def drain(self, name: str) -> tuple[Drained, ...]:
        """Stop it, and report for each instance how it ended and which calls were cut, if known."""
        return await self._rest(self._children(name))

    def selected(self, names: Iterable[str]) -> Callable[[str], bool]:
        """Tells whether a plugin is one of these names, or in a group of them.

        Without names all are, those that come later, too.
        """
        names = set(names)  # A caller may give the same one a million times.
        if not names:
            return lambda _: True
        found = frozenset(plugin for name in names for plugin in self._plugins(name))
        return found.__contains__

    def lines(self, name: str) -> dict[tuple[str, int], tuple[Line, ...]]:
        """The last lines that each instance wrote, oldest first, by plugin and instance."""
        return {(c.plugin, c.number): c.ring.lines() for c in self._children(name)}

    def all_lines(self) -> Iterator[tuple[str, int, Line]]:
        """The same of all instances, each line with the plugin and the instance."""
        for child in self._tree.children:
            for line in child.ring.lines():
                yield child.plugin, child.number, line

    async def restart(self, name: str) -> None:
        """Renew instances one by one: a successor is ready before the one in office is stopped.

        Loses no call. What does not run is started. Raises PluginFailedError, with the instance
        left as it was, if a successor does not get ready, and as `start` does.
        """
        for plugin in dict.fromkeys(child.plugin for child in self._children(name)):
            async with self._changing[plugin]:
                for child in self._children(plugin):
                    await self._renew(child, "a restart was asked for")

    async def scale(self, name: str, instances: int) -> None:
        """Have so many instances of a plugin, and wait until they are ready, or gone.

        Those with the highest numbers go first. Raises PluginFailedError as `start` does, and
        ConfigError for more than `max_instances` of the plugin or of the mesh, and for ports that
        there are not; nothing has happened then.
        """
        plugin = self._plugin(name)
        if instances < 1:
            raise UsageError(f"cannot scale {name} to {instances} instances; `stop` stops them all")
        async with self._changing[plugin.name]:
            scaled = attrs.evolve(self._plugin(name), instances=instances)
            self._tree.configure(_with(self._tree.config, scaled))
            await self._fit(scaled.name)

    def set_log_level(self, name: str, level: LogLevel | str) -> frozenset[str]:
        """Log the lines of these plugins from a level on, until the next reload; gives their names.

        Processes that are started from now on are told; who tells the others is
        `services.log_levels`. Raises UsageError for a level that there is not.
        """
        names, config = self._plugins(name), self._tree.config
        for plugin in config.plugins:
            if plugin.name in names:
                output = attrs.evolve(plugin.output, log_level=LogLevel.named(level))
                config = _with(config, attrs.evolve(plugin, output=output))
        self._tree.configure(config)
        return names

    async def reload(self, config: MeshConfig) -> Reloaded:
        """Go over to another config, touching only what it changes.

        What only says how a plugin is looked after (restart, liveness, groups, …) is taken over as
        it is; a change to its process means a rolling restart. Raises UsageError for what needs
        another mesh and ConfigError for what cannot be here, and nothing has happened then. Raises
        PluginFailedError, with all of them, once everything else is done, where plugins do not
        start or cannot be renewed: the config is the new one, and restart policies apply.
        """
        for fixed in ("runtime_dir", "cgroup", "gateway", "telemetry", "log"):
            if getattr(config, fixed) != getattr(self._tree.config, fixed):
                raise UsageError(f"{fixed} cannot be changed while the mesh runs")
        runtime_dir.check(config)
        async with AsyncExitStack() as stack:
            # In one order, so that two of them cannot wait for each other.
            for name in sorted({p.name for p in (*self._tree.config.plugins, *config.plugins)}):
                await stack.enter_async_context(self._changing[name])
            return await self._change_to(config)

    async def _change_to(self, config: MeshConfig) -> Reloaded:
        changes = compare(self._tree.config, config, self._behind(config))
        for name in changes.removed:
            gone = self._children(name)
            await self._rest(gone)
            self._tree.remove(gone)
        self._tree.configure(config)
        failures: list[str] = []

        async def change(how: Callable[[str], Awaitable[None]], name: str) -> None:
            try:
                await how(name)
            except PluginFailedError as exc:
                failures.append(str(exc))

        async with open_nursery_of_one() as nursery:
            for name in (*changes.added, *changes.scaled):
                nursery.start_soon(change, self._fit, name)
            for name in changes.restarted:
                nursery.start_soon(change, self._reshape, name)
        if failures:
            raise PluginFailedError("\n".join(failures))
        return changes

    def _behind(self, config: MeshConfig) -> frozenset[str]:
        """Plugins of which a process is none that a config would have: an earlier change failed."""
        wanted = {plugin.name: plugin.process() for plugin in config.plugins}
        return frozenset(
            child.plugin
            for child in self._tree.children
            if child.life is not None
            and child.plugin in wanted
            and child.life.config.process() != wanted[child.plugin]
        )

    # -- parts -------------------------------------------------------------------------------

    def _plugin(self, name: str) -> PluginConfig:
        for plugin in self._tree.config.plugins:
            if name in (plugin.name, plugin.service):
                return plugin
        known = ", ".join(plugin.name for plugin in self._tree.config.plugins) or "none"
        raise UnknownNameError(f"there is no plugin {name!r}; the plugins are: {known}")

    def _children(self, name: str) -> list[Child]:
        wanted = self._plugins(name)
        return [child for child in self._tree.children if child.plugin in wanted]

    def _plugins(self, name: str) -> frozenset[str]:
        config = self._tree.config
        if any(group.name == name for group in config.groups):
            return frozenset(config.relations().plugins_in(name))
        return frozenset([self._plugin(name).name])

    def _revive(self, child: Child) -> None:
        if not child.running:
            child.due = -math.inf
        if child.goal is Goal.REST and not child.running:
            child.rest = State.PENDING
            child.history = History(restarts=child.history.restarts)
        if child.goal is Goal.REST:
            # One that is still being stopped goes on to another life.
            child.goal = Goal.RECYCLE if child.running else Goal.RUN

    async def _until_ready(self, children: Sequence[Child]) -> None:
        """Wait until all are ready. Raises PluginFailedError as soon as one fails to start, or one
        that it cannot be started without."""
        failed_before = {child: child.failed_starts for child in self._tree.children}

        def has_failed(child: Child) -> bool:
            failed = child.failed_starts > failed_before.get(child, 0)
            return not child.ready and (failed or (child.goal is Goal.REST and not child.running))

        def failures() -> list[str]:
            found = [_failure(child) for child in children if has_failed(child)]
            if not found:
                found = [
                    f"{_name(child)} waits for {_failure(instances[0])}"
                    for child in children
                    for instances in self._tree.waited_for(child)
                    if all(map(has_failed, instances))
                ]
            return found

        await self._tree.until(lambda: all(c.ready for c in children) or bool(failures()))
        if failed := failures():
            raise PluginFailedError("\n".join(failed))

    async def _rest(self, children: Sequence[Child]) -> tuple[Drained, ...]:
        lives = {child: child.life for child in children}
        for child in children:
            child.goal = Goal.REST
            if not child.running and child.rest in (State.PENDING, State.BACKOFF):
                child.rest = State.STOPPED
        await self._tree.until(lambda: not any(child.running for child in children))
        return tuple(_drained(child, life) for child, life in lives.items())

    async def _renew(self, child: Child, why: str) -> None:
        if not child.ready:
            self._revive(child)
            await self._until_ready([child])
            return
        child.renewal, child.renewal_failure = why, ""
        await self._tree.until(lambda: not child.renewal and not child.retired)
        if child.renewal_failure:
            raise PluginFailedError(
                f"a successor of {_name(child)} {child.renewal_failure}; the one in office goes on"
            )

    async def _fit(self, name: str) -> None:
        """Have as many instances as the config says."""
        plugin = self._plugin(name)
        there = self._children(plugin.name)
        surplus = [child for child in there if child.number >= plugin.instances]
        added = [Child(plugin, number) for number in range(len(there), plugin.instances)]
        self._tree.add(added)
        await self._rest(surplus)
        self._tree.remove(surplus)
        await self._until_ready(added)

    async def _reshape(self, name: str) -> None:
        await self._fit(name)
        for child in self._children(name):
            if child.goal is Goal.RUN:
                await self._renew(child, "its config has changed")


def _name(child: Child) -> str:
    return f"{child.plugin}/{child.number}"


def _failure(child: Child) -> str:
    """How an instance failed to start, and what becomes of it."""
    if child.goal is Goal.REST and child.rest is State.STOPPED:
        return f"{_name(child)} is stopped"
    text = f"{_name(child)} {child.reason}{child.last_words}"
    if child.rest is State.BACKOFF and child.life is None:
        text += f"; it is started again in {max(child.due - trio.current_time(), 0):.1f} s"
    return text


def _drained(child: Child, life: Life | None) -> Drained:
    if life is None:
        return Drained(child.plugin, child.number, None)
    return Drained(
        plugin=child.plugin,
        instance=child.number,
        ended=life.ended,
        forced=life.forced,
        cut_calls=tuple(sorted(life.listener.cut_calls)),
        cut_calls_known=life.cut_calls_known,
    )


def _with(config: MeshConfig, plugin: PluginConfig) -> MeshConfig:
    plugins = [plugin if known.name == plugin.name else known for known in config.plugins]
    return attrs.evolve(config, plugins=plugins)


def compare(
    before: MeshConfig, after: MeshConfig, behind: frozenset[str] = frozenset()
) -> Reloaded:
    """What a change of config means for each plugin; `behind` are those whose processes are none
    that `after` would have. Pure."""
    old = {plugin.name: plugin for plugin in before.plugins}
    new = {plugin.name: plugin for plugin in after.plugins}
    kept = [n for n in new if n in old and (new[n] != old[n] or n in behind)]
    restarted = [n for n in kept if n in behind or new[n].process() != old[n].process()]
    scaled = [n for n in kept if n not in restarted and new[n].instances != old[n].instances]
    return Reloaded(
        added=_names(name for name in new if name not in old),
        removed=_names(name for name in old if name not in new),
        restarted=_names(restarted),
        scaled=_names(scaled),
        adjusted=_names(name for name in kept if name not in (*restarted, *scaled)),
    )


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)
