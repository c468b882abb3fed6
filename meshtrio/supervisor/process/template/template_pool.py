"""The templates of a mesh: which exist, and from which one a plugin is forked."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from meshtrio.config import PluginConfig
from meshtrio.supervisor.process.saved_processes import SavedTemplate
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.process.template.fork_start import (
    StaleTemplateError,
    TemplateError,
    TemplateFailedError,
)
from meshtrio.supervisor.process.template.template import Template, TemplateEffects
from meshtrio.supervisor.process.template.template_key import TemplateKey
from meshtrio.util.concurrency import start_soon_without_context

_log = logging.getLogger("meshtrio.mesh")

_MAX_RETRY_DELAY = 60.0
"""Maximum seconds until a template that could not serve is tried again, in the background; at first
one second, then twice as long each time. The cause may pass, as a lack of memory does."""
_MAX_GENERATIONS = 3
"""Number of templates that one start tries, if each turns out to have imported old code."""


@attrs.define
class _Refusal:
    """A template could not serve."""

    problem: str
    """Why, as a phrase."""
    failures: int = 0
    """Number of times that it was started in vain."""
    retry_at: float = -math.inf
    """When it is tried again, if a plugin needs it then."""

    def record_attempt(self) -> None:
        """Determine when to try again, at the start of an attempt or when the first has failed."""
        delay = min(2.0**self.failures, _MAX_RETRY_DELAY)
        self.failures += 1
        self.retry_at = trio.current_time() + delay


class TemplatePool:
    """The templates of a mesh; `run` owns them."""

    def __init__(self, effects: TemplateEffects, adopted: Iterable[SavedTemplate] = ()) -> None:
        """Run nothing until `run`; `adopted` are templates that were started before an upgrade."""
        self._effects = effects
        self._templates: dict[TemplateKey, Template] = {}
        self._refusals: dict[TemplateKey, _Refusal] = {}
        self._keys: dict[str, TemplateKey] = {}
        """The template of each plugin, by the plugin's name."""
        self._logged: dict[str, str] = {}
        """The reason why a plugin is not forked that was logged last."""
        self._nursery: trio.Nursery | None = None
        self._running: set[Template] = set()
        """Those whose `run` has not ended."""
        for saved in adopted:
            key = TemplateKey.adopt(saved.key)
            self._templates[key] = template = Template(key, effects, saved.name, saved)
            self._running.add(template)
            self._keys.update(dict.fromkeys(saved.plugins, key))

    @property
    def is_steady(self) -> bool:
        """Whether no template starts or ends."""
        return all(template.is_steady for template in self._running)

    def save(self) -> tuple[SavedTemplate, ...]:
        """Return what an upgrade hands over, while no template starts or ends."""
        plugins = {
            template: tuple(name for name, key in self._keys.items() if key == template.key)
            for template in self._running
        }
        return tuple(template.save(names) for template, names in plugins.items())

    async def _run_template(self, template: Template) -> None:
        self._running.add(template)
        try:
            await template.run()
        finally:
            self._running.discard(template)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run templates until cancelled, then kill them."""
        try:
            async with trio.open_nursery() as self._nursery:
                for template in self._running:
                    start_soon_without_context(self._nursery, self._run_template, template)
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None

    async def fork(
        self,
        config: PluginConfig,
        *,
        shared_env: Mapping[str, str],
        env: Mapping[str, str],
        cgroup: Path | None,
        listener: int | None = None,
    ) -> PluginProcess | None:
        """Start a process of a plugin by fork; None if it has to be started by exec.

        Args:
            config: The plugin.
            shared_env: The variables that all of its processes have.
            env: All variables of this one.
            cgroup: Its cgroup, if it has one.
            listener: The descriptor of the listening socket that it inherits, if it does.

        Cancellation: A process that was started is returned.
        """
        try:
            key = TemplateKey.make(config, shared_env)
            start = partial(Template.fork, env=env, cgroup=cgroup, listener=listener)
            process = await self._fork(config, key, start)
        except (TemplateError, OSError) as exc:
            if self._logged.get(config.name) != str(exc):
                self._logged[config.name] = str(exc)
                _log.warning("%s: starting by exec, not by fork: %s", config.name, exc)
            return None
        self._logged.pop(config.name, None)
        return process

    def retain(self, plugins: Iterable[str]) -> None:
        """End the templates that only plugins other than these have used."""
        wanted = frozenset(plugins)
        self._keys = {name: key for name, key in self._keys.items() if name in wanted}
        for key in self._templates.keys() - self._keys.values():
            self._end(key)

    async def _fork(
        self, config: PluginConfig, key: TemplateKey, start: Callable[..., Awaitable[PluginProcess]]
    ) -> PluginProcess:
        """Fork by `start`, which is called with a template and what the child is to become."""
        if self._keys.get(config.name) != key:
            self._keys[config.name] = key
            self.retain(self._keys)
        content = _make_content(config, key)
        is_refused = key in self._refusals
        for attempt in range(_MAX_GENERATIONS):
            template = await self._get_template(config, key)
            try:
                process = await start(template, content)
            except StaleTemplateError:
                if self._templates.get(key) is template:
                    _log.info("%s: the code of its template has changed; renewing it", config.name)
                    self._end(key)
            except TemplateFailedError as exc:
                # Once, another template takes no longer than starting it by exec. Then it costs
                # that in addition, at each start.
                if attempt or is_refused or self._keys.get(config.name) != key:
                    self._refuse(key, str(exc))
                    raise
            else:
                self._refusals.pop(key, None)
                return process
        problem = "the code of its modules changes again and again"
        self._refuse(key, problem)
        raise TemplateError(problem)

    def _refuse(self, key: TemplateKey, problem: str) -> None:
        """Do not try to fork from such a template for a while."""
        refusal = self._refusals.setdefault(key, _Refusal(problem))
        refusal.problem = problem
        refusal.record_attempt()

    async def _get_template(self, config: PluginConfig, key: TemplateKey) -> Template:
        """Return the template once it serves, starting it if necessary.

        Raises TemplateError if it cannot serve. That is tried again after a while, and starts do
        not wait for it then.
        """
        template, refusal = self._templates.get(key), self._refusals.get(key)
        if template is None or template.has_ended:
            if refusal is not None and trio.current_time() < refusal.retry_at:
                raise TemplateError(refusal.problem)
            template = self._start(config, key)
        if refusal is not None and not template.settled.is_set():
            raise TemplateError(refusal.problem)
        # A plugin that takes longer to import the same modules is not ready in time either.
        template.allow_imports(config.ready_timeout)
        with trio.move_on_after(config.ready_timeout):
            await template.settled.wait()
        if template.is_ready:
            return template
        if not template.settled.is_set():
            raise TemplateError(template.describe_timeout(config.ready_timeout))
        if not template.was_ready and key not in self._refusals:
            self._refuse(key, template.problem)
        raise TemplateError(template.problem)

    def _start(self, config: PluginConfig, key: TemplateKey) -> Template:
        if self._nursery is None:
            raise TemplateError("the mesh is stopping")
        if (refusal := self._refusals.get(key)) is not None:
            refusal.record_attempt()
        name = " ".join(["template", *config.preload])
        template = self._templates[key] = Template(key, self._effects, name)
        template.allow_imports(config.ready_timeout)
        self._running.add(template)
        start_soon_without_context(self._nursery, self._run_template, template)
        return template

    def _end(self, key: TemplateKey) -> None:
        self._templates.pop(key).scope.cancel()
        self._refusals.pop(key, None)


def _make_content(config: PluginConfig, key: TemplateKey) -> dict[str, Any]:
    """Make what `forked_child` and `program_runner` read, apart from the marks."""
    command, containment = config.python_command(), config.containment
    # The template has the others; the mesh itself moves the child to its cgroup.
    inherited = {"user": None, "group": None, "nice": None, "cgroup": None}
    rlimits = attrs.asdict(containment.rlimits)
    return {
        "cwd": key.cwd,
        "command": config.argv(),
        "option": command.option,
        "program": command.program,
        "arguments": command.arguments,
        "script_sha256": containment.script_sha256,
        "settings": {**inherited, "rlimits": rlimits, "umask": containment.umask},
    }
