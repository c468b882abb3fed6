"""Code of others that is called with lifecycle events, and errors of the mesh itself."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from meshtrio.config import MeshConfig
from meshtrio.discovery.endpoint import ExitInfo
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor import events
from meshtrio.supervisor.supervisor import Supervisor
from tests.support.fake_processes import (
    FakeEffects,
    ProcessScript,
    SupervisorHarness,
    make_plugin_config,
    make_supervisor,
)


class OddError(BaseException):
    """A BaseException, as asyncio.CancelledError is one."""


@pytest.mark.parametrize("error", [ValueError, OddError, ExceptionGroup], ids=str)
async def test_a_subscriber_that_raises_ends_nothing(
    error: Any, autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(event: events.LifecycleEvent) -> None:
        raise error("no", [ValueError("inner")]) if error is ExceptionGroup else error("no")

    seen: list[str] = []
    async with make_supervisor(
        [make_plugin_config("a"), make_plugin_config("b")], {"a": [ProcessScript(lifetime=5)]}
    ) as harness:
        harness.supervisor.subscribe(broken)
        harness.supervisor.subscribe(lambda event: seen.append(type(event).__name__))
        await harness.run_until(60)
        assert harness.states() == {"a/0": "ready", "b/0": "ready"}
        assert {"Starting", "Ready", "Exited", "Restarting"} <= set(seen)
    assert len(harness.supervisor.shutdown_report.stopped) == 2
    records = [r for r in caplog.records if "subscriber of lifecycle events raised" in r.message]
    # One a minute, however many events there are: at the start and at the end.
    assert len(records) == 2
    assert records[0].levelno == logging.ERROR


async def test_what_the_mesh_was_handling_is_no_part_of_a_subscribers_error() -> None:
    logged: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = logged.append  # type: ignore[method-assign]

    def broken(event: events.LifecycleEvent) -> None:
        try:
            raise LookupError("the subscriber's own")
        except LookupError:
            raise ValueError("no")  # noqa: B904

    subscribers = events.Subscribers([broken], on_exit=lambda exc: None)
    log = logging.getLogger("meshtrio.mesh")
    log.addHandler(handler)
    try:
        raise RuntimeError("of the mesh")
    except RuntimeError:
        subscribers.emit(events.Ready("a", 0, pid=1, startup_time=0.1))
    finally:
        log.removeHandler(handler)
    (record,) = logged
    text = logging.Formatter().format(record)
    assert "the subscriber's own" in text
    assert "of the mesh" not in text


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
async def test_a_subscriber_may_end_the_program_and_all_is_stopped(
    error: type[BaseException], autojump_clock: trio.testing.MockClock
) -> None:
    def leaving(event: events.LifecycleEvent) -> None:
        if isinstance(event, events.Ready):
            raise error(3)

    effects, registry = FakeEffects(), Registry()
    config = MeshConfig([make_plugin_config("a"), make_plugin_config("b")])
    supervisor = Supervisor(
        config, registry, Path("/run/fake"), [leaving], effects=effects.make_effects()
    )
    with pytest.raises(error):
        await supervisor.run()
    assert effects.guarded_pids == set()
    assert not any(status.pid for status in supervisor.statuses())


async def test_an_error_of_the_mesh_ends_one_process_only(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    failures = iter([RuntimeError("of the probe")])

    class Failing(FakeEffects):
        async def check(self, timeout_seconds: float, connect: Any) -> Any:
            found = await super().check(timeout_seconds, connect)
            if "/a-0" in connect.__self__._address:
                for failure in failures:
                    raise failure
            return found

    effects, registry = Failing(), Registry()
    config = MeshConfig([make_plugin_config("a"), make_plugin_config("b")])
    supervisor = Supervisor(config, registry, Path("/run/fake"), effects=effects.make_effects())
    harness = SupervisorHarness(supervisor, effects, registry)
    supervisor.subscribe(harness.on_event)
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await harness.run_until(60)
        assert harness.states() == {"a/0": "ready", "b/0": "ready"}
        assert [len(effects.processes[name]) for name in ("a", "b")] == [2, 1]
        assert harness.events_of("Exited", "Restarting") == ["Exited a", "Restarting a"]
        nursery.cancel_scope.cancel()
    assert "internal error" in caplog.text
    assert "of the probe" in caplog.text


@pytest.mark.parametrize("where", ["guard", "registry"])
async def test_an_error_around_a_process_leaves_none_behind(
    where: str, autojump_clock: trio.testing.MockClock
) -> None:
    """What watches it, or the registry, fails for one instance."""

    class Failing(FakeEffects):
        def watch(self, pid: int, pidfd: int) -> None:
            super().watch(pid, pidfd)
            first = [process.pid for process in self.processes["a"][:1]]
            if where == "guard" and pid in first:
                raise RuntimeError("of the guard")

    class FailingRegistry(Registry):
        def deregister(self, service: str, exit_info: ExitInfo) -> None:
            if where == "registry" and service == "plugin.a":
                raise RuntimeError("of the registry")
            super().deregister(service, exit_info)

    effects, registry = Failing({"a": [ProcessScript(lifetime=1)]}), FailingRegistry()
    supervisor = Supervisor(
        MeshConfig([make_plugin_config("a"), make_plugin_config("b")]),
        registry,
        Path("/fake"),
        effects=effects.make_effects(),
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await trio.sleep(60)
        assert [each.state.value for each in supervisor.statuses()] == ["ready", "ready"]
        assert [len(effects.processes[name]) for name in ("a", "b")] == [2, 1]
        assert effects.processes["a"][0].has_exited
        nursery.cancel_scope.cancel()
    assert all(each.has_exited for name in "ab" for each in effects.processes[name])


async def test_an_error_of_the_sweep_ends_nothing(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def sweep(owner: Any) -> Any:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("of the sweep")

    effects, registry = FakeEffects({"a": [ProcessScript(lifetime=1)]}), Registry()
    fake = attrs.evolve(effects.make_effects(), kill_orphans=sweep)
    supervisor = Supervisor(
        MeshConfig([make_plugin_config("a")]), registry, Path("/run/fake"), effects=fake
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(supervisor.run)
        await trio.sleep(60)
        assert supervisor.statuses()[0].state.value == "ready"
        nursery.cancel_scope.cancel()
    assert "of the sweep" in caplog.text


async def test_the_shutdown_report_is_up_to_date_when_a_stop_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stopped: list[tuple[str, ...]] = []

    def on_event(event: events.LifecycleEvent) -> None:
        if isinstance(event, events.Stopped):
            stopped.append(harness.supervisor.shutdown_report.stopped)

    scripts = {"b": [ProcessScript(stop_duration=1)]}
    plugins = [make_plugin_config("a"), make_plugin_config("b")]
    async with make_supervisor(plugins, scripts) as harness:
        harness.supervisor.subscribe(on_event)
        await harness.run_until(1)
        harness.supervisor.start_shutdown()
        await harness.run_until(10)
        assert stopped == [("a/0",), ("a/0", "b/0")]
