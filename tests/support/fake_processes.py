"""A supervisor with scripted processes and health checks, for tests in virtual time.

A `ProcessScript` defines how the next process of a plugin behaves.
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

from meshtrio.config import (
    GroupConfig,
    MeshConfig,
    PluginConfig,
    ProgramConfig,
    StartMethod,
    TaskConfig,
)
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor import events
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.operations import Operations
from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.supervisor.probe import HealthCheckResult, NotReadyError
from meshtrio.supervisor.process.cleanup.leftover_killer import (
    LeftoverReport,
    RunIdentity,
)
from meshtrio.supervisor.process.proc.activity import ActivitySample
from meshtrio.supervisor.supervisor import Supervisor

FOREVER = float("inf")
SERVING = HealthCheckResult(is_alive=True, is_serving=True)
NOT_SERVING = HealthCheckResult(
    is_alive=True, is_serving=False, reason="its health check says NOT_SERVING"
)
NOT_ANSWERING = HealthCheckResult(
    is_alive=False, is_serving=False, reason="it did not answer", condition=Condition.STUCK
)


@attrs.define
class ProcessScript:
    """The behaviour of one process."""

    ready_after: float = 0.0
    """Seconds from its start until it is ready."""
    lifetime: float = FOREVER
    """Seconds from its start until it ends by itself."""
    exit_status: int = 1
    """Its status when it ends by itself."""
    stop_duration: float = 0.0
    """Seconds from SIGTERM to its end."""
    is_unkillable: bool = False
    """Whether it survives SIGKILL."""
    health_checks: Sequence[HealthCheckResult] = (SERVING,)
    """The results of its health checks, in turn; the last is repeated for ever."""
    spawn_error: OSError | None = None
    """What starting it raises, if it cannot be started."""


def _closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(writing)
    return reading


class FakeProcess:
    def __init__(self, pid: int, script: ProcessScript) -> None:
        self.pid = pid
        self.pidfd = -1
        self.stdout, self.stderr = _closed_pipe(), _closed_pipe()
        self.returncode: int | None = None
        self.tracer = None
        self.start_method = StartMethod.EXEC
        self.leader_exited = trio.Event()
        self.script = script
        self.dumped = False
        self.ready_at = trio.current_time() + script.ready_after
        self._ends_at = trio.current_time() + script.lifetime
        self._health_checks = itertools.chain(
            script.health_checks, itertools.repeat(script.health_checks[-1])
        )

    def next_health_check(self) -> HealthCheckResult:
        return next(self._health_checks)

    async def wait(self) -> None:
        if self.returncode is None:
            await trio.sleep_until(self._ends_at)
            self.returncode = self.script.exit_status

    @property
    def has_exited(self) -> bool:
        return self.returncode is not None

    @property
    def is_reaped(self) -> bool:
        return self.has_exited

    def reap_later(self, on_reaped: Callable[[], None]) -> None:
        if self.is_reaped:
            on_reaped()

    def find_tracer(self) -> None:
        return None

    async def dump_stacks(self) -> None:
        self.dumped = True

    async def stop(self, grace_period: float) -> bool:
        forced = self.script.stop_duration > grace_period
        await trio.sleep(min(self.script.stop_duration, grace_period))
        if not self.script.is_unkillable:
            self.returncode = -9 if forced else 0
        return forced


class FakeEffects:
    """The effects of a supervisor with scripted processes."""

    def __init__(self, scripts: Mapping[str, Iterable[ProcessScript]] | None = None) -> None:
        self._scripts = {name: iter(script) for name, script in (scripts or {}).items()}
        self._by_socket: dict[str, FakeProcess] = {}
        self._pids = itertools.count(1000)
        self.processes: dict[str, list[FakeProcess]] = defaultdict(list)
        self.resident_by_pgid: dict[int, int] = {}
        """Resident memory by process group, in bytes."""
        self.cpu_wait = 0.0
        """Seconds that each process has waited for a CPU."""
        self.guarded_pids: set[int] = set()
        self.wall_time_offset = 0.0
        """What the wall clock differs by from trio's, in seconds."""

    def make_effects(self) -> Effects:
        return Effects(
            guard=self,  # type: ignore[arg-type]
            run_guard=nullcontext,
            spawn=self.spawn,
            probe=self,  # type: ignore[arg-type]
            rng=Random(0),
            read_rss_by_group=self.read_rss_by_group,
            kill_orphans=self.kill_orphans,
            is_socket_removed=lambda socket: False,
            is_address_in_use=self.is_address_in_use,
            diagnose_program=self.diagnose_program,
            observe=self.observe,
            wall_clock=lambda: trio.current_time() + self.wall_time_offset,
        )

    # -- as the guard ------------------------------------------------------------------------

    def watch(self, pid: int, pidfd: int) -> None:
        self.guarded_pids.add(pid)

    def unwatch(self, pid: int) -> None:
        self.guarded_pids.remove(pid)

    def set_users(self, users: Iterable[int]) -> None:
        self.users = set(users)

    async def kill_orphans(self, identity: RunIdentity) -> LeftoverReport:
        await trio.lowlevel.checkpoint()
        return LeftoverReport()

    async def read_rss_by_group(self) -> Mapping[int, int]:
        await trio.lowlevel.checkpoint()
        return self.resident_by_pgid

    async def observe(self, leader: int, address: str) -> ActivitySample | None:
        await trio.lowlevel.checkpoint()
        if not self.cpu_wait:
            return None
        return ActivitySample(trio.current_time(), max_cpu_wait=self.cpu_wait)

    async def is_address_in_use(self, address: str) -> bool:
        await trio.lowlevel.checkpoint()
        return False

    async def diagnose_program(self, config: ProgramConfig) -> str:
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
        script = next(self._scripts.get(name, iter(())), None) or ProcessScript()
        if script.spawn_error is not None:
            raise script.spawn_error
        process = FakeProcess(next(self._pids), script)
        self.processes[name].append(process)
        if "PLUGIN_SOCKET" in env:  # Tasks have none.
            self._by_socket[f"unix:{env['PLUGIN_SOCKET']}"] = process
        return process

    # -- as the probe ------------------------------------------------------------------------

    async def wait_ready(self, timeout_seconds: float, connect: Any) -> None:
        process = self._by_socket[connect.__self__._address]
        with trio.move_on_after(timeout_seconds):
            await trio.sleep_until(process.ready_at)
            return
        raise NotReadyError(timeout_seconds, "it is a fake")

    async def check(self, timeout_seconds: float, connect: Any) -> HealthCheckResult:
        await trio.lowlevel.checkpoint()
        return self._by_socket[connect.__self__._address].next_health_check()


class SupervisorHarness:
    """A supervisor with fake effects, and the events that it has emitted."""

    def __init__(self, supervisor: Supervisor, effects: FakeEffects, registry: Registry) -> None:
        self.supervisor = supervisor
        self.effects = effects
        self.registry = registry
        self.operations = Operations(supervisor)
        self.started_at = trio.current_time()
        self.log: list[tuple[float, str]] = []

    def on_event(self, event: events.LifecycleEvent) -> None:
        name = event.plugin if not event.instance else f"{event.plugin}/{event.instance}"
        at = round(trio.current_time() - self.started_at, 3)
        self.log.append((at, f"{type(event).__name__} {name}"))

    def events_of(self, *kinds: str) -> list[str]:
        """Return the events of these kinds as `"Kind plugin"`, in order."""
        return [text for _, text in self.log if text.split()[0] in kinds]

    def event_times(self, text: str) -> list[float]:
        """Return when the event `"Kind plugin"` was emitted, in seconds since the start."""
        return [at for at, event in self.log if event == text]

    def states(self) -> dict[str, str]:
        return {f"{s.name}/{s.instance}": s.state.value for s in self.supervisor.statuses()}

    def task_states(self) -> dict[str, str]:
        return {status.name: status.state.value for status in self.supervisor.task_statuses()}

    def set_clock(self, unix_time: float) -> None:
        """Set the wall clock."""
        self.effects.wall_time_offset = unix_time - trio.current_time()

    async def run_until(self, seconds: float) -> None:
        """Wait until `seconds` after the start, and until all tasks wait."""
        await trio.sleep_until(self.started_at + seconds)
        await trio.testing.wait_all_tasks_blocked()


def make_plugin_config(name: str, **settings: Any) -> PluginConfig:
    return PluginConfig(name=name, command=["true"], **settings)


def make_task_config(name: str, **settings: Any) -> TaskConfig:
    return TaskConfig(name=name, command=["true"], **settings)


@asynccontextmanager
async def make_supervisor(
    plugins: Sequence[PluginConfig],
    scripts: Mapping[str, Iterable[ProcessScript]] | None = None,
    groups: Sequence[GroupConfig] = (),
    tasks: Sequence[TaskConfig] = (),
    unix_time: float = 0.0,
    prepare: Callable[[SupervisorHarness], None] = lambda _: None,
) -> AsyncIterator[SupervisorHarness]:
    """Run a supervisor of `plugins` during the block; afterwards no process is left.

    `prepare` is called before the supervisor runs.
    """
    effects, registry = FakeEffects(scripts), Registry()
    effects.wall_time_offset = unix_time - trio.current_time()
    supervisor = Supervisor(
        MeshConfig(plugins, groups, tasks=tasks),
        registry,
        Path("/run/fake"),
        effects=effects.make_effects(),
    )
    harness = SupervisorHarness(supervisor, effects, registry)
    supervisor.subscribe(harness.on_event)
    prepare(harness)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        yield harness
        nursery.cancel_scope.cancel()
    assert len(effects.guarded_pids) == len(supervisor.shutdown_report.unkillable)
    assert not any(status.pid for status in supervisor.statuses())
