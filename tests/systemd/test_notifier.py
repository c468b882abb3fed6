"""What is reported of a supervisor, in virtual time."""

from __future__ import annotations

import itertools
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
from trio.testing import MockClock

from meshtrio.config import MeshConfig, PluginConfig
from meshtrio.errors import PluginFailedError
from meshtrio.systemd.notifier import Notifier
from meshtrio.util.errors import ConfigError
from tests.support.fake_processes import (
    ProcessScript,
    SupervisorHarness,
    make_plugin_config,
    make_supervisor,
)

NEVER_READY = ProcessScript(ready_after=1000)
CRASHING = itertools.repeat(ProcessScript(ready_after=100, lifetime=0.5, exit_status=3))


class RecordingSocket:
    """Records what is sent, and when, in seconds since the start."""

    is_open = True

    def __init__(self) -> None:
        self.started_at = trio.current_time()
        self.accepts = True
        self.sent: list[tuple[float, str]] = []

    def send(self, *assignments: str) -> bool:
        if self.accepts:
            now = round(trio.current_time() - self.started_at, 3)
            self.sent.extend((now, each) for each in assignments)
        return self.accepts

    def get(self, *keys: str) -> list[tuple[float, str]]:
        """Return what was sent of some keys, without the values of the clock."""
        return [
            (at, text if key == "STATUS" else key)
            for at, text in self.sent
            if (key := text.partition("=")[0]) in keys
        ]


@attrs.define
class Reported:
    harness: SupervisorHarness
    socket: RecordingSocket
    notifier: Notifier

    @property
    def states(self) -> list[tuple[float, str]]:
        return self.socket.get("READY", "RELOADING", "STOPPING")

    @property
    def statuses(self) -> list[str]:
        return [text.removeprefix("STATUS=") for _, text in self.socket.get("STATUS")]


@asynccontextmanager
async def reported_supervisor(
    plugins: Sequence[PluginConfig],
    scripts: Mapping[str, Iterable[ProcessScript]] | None = None,
    *,
    ping_interval: float | None = None,
    prepare: Callable[[RecordingSocket], None] = lambda _: None,
) -> AsyncIterator[Reported]:
    socket = RecordingSocket()
    prepare(socket)
    made = []

    def watch(harness: SupervisorHarness) -> None:
        notifier = Notifier(socket, harness.supervisor, ping_interval)  # type: ignore[arg-type]
        harness.supervisor.on_turn = notifier.on_turn
        harness.operations.report_reload = notifier.reloading
        made.append(notifier)

    async with make_supervisor(plugins, scripts, prepare=watch) as harness:
        yield Reported(harness, socket, made[0])


async def test_ready_once_all_plugins_are(autojump_clock: MockClock) -> None:
    plugins = [make_plugin_config("db"), make_plugin_config("web", depends_on=["db"])]
    scripts = {name: [ProcessScript(ready_after=2)] for name in ("db", "web")}
    async with reported_supervisor(plugins, scripts) as it:
        await it.harness.run_until(3)
        assert it.states == []
        assert it.statuses[-1] == "1 of 2 plugins ready; web is starting"
        await it.harness.run_until(60)
        assert it.states == [(4, "READY")]
        assert it.statuses[-1] == "2 of 2 plugins ready"


async def test_ready_without_plugins_and_without_those_that_give_up(
    autojump_clock: MockClock,
) -> None:
    async with reported_supervisor([]) as it:
        await it.harness.run_until(1)
        assert it.states == [(0, "READY")]
    plugins = [
        make_plugin_config("db", restart="never"),
        make_plugin_config("web", depends_on=["db"]),
        make_plugin_config("other"),
    ]
    async with reported_supervisor(plugins, {"db": CRASHING}) as it:
        await it.harness.run_until(60)
        assert it.states == [(0.5, "READY")]
        assert it.statuses[-1] == (
            "1 of 3 plugins ready; db failed: exited with status 3; web waits to be started"
        )


async def test_a_plugin_that_crashes_for_ever_is_waited_for_three_times(
    autojump_clock: MockClock,
) -> None:
    async with reported_supervisor([make_plugin_config("p")], {"p": CRASHING}) as it:
        await it.harness.run_until(100)
        (at, _), *others = it.states
        assert not others
        assert len([t for t in it.harness.event_times("Exited p") if t <= at]) == 3
        assert "p is started again: exited with status 3" in it.statuses[-1]


async def test_stopping_once_and_the_status_until_the_last_has_stopped(
    autojump_clock: MockClock,
) -> None:
    script = ProcessScript(stop_duration=95)
    config = make_plugin_config("slow", stop_timeout=100)
    async with reported_supervisor([config], {"slow": [script]}) as it:
        await it.harness.run_until(10)
        socket = it.socket
    assert it.states == [(0, "READY"), (10, "STOPPING")]
    assert it.statuses[-2:] == [
        "stopping: 1 of 1 plugin still running: slow",
        "stopping: all plugins have stopped",
    ]
    # Each is for 30 s and more, and there is one for each 10 s of the drain.
    times = [at for at, _ in socket.get("EXTEND_TIMEOUT_USEC")]
    assert times == [*times[:-10], *(10.0 + 10 * n for n in range(10))]
    assert all(at <= 0.001 for at in times[:-10])


async def test_the_timeout_is_extended_while_plugins_start(autojump_clock: MockClock) -> None:
    plugin = make_plugin_config("p", ready_timeout=200)
    scripts = {"p": [ProcessScript(ready_after=45)]}
    async with reported_supervisor([plugin], scripts) as it:
        await it.harness.run_until(500)
        found = [text for text in it.socket.sent if text[1].startswith("EXTEND")]
    assert [at for at, _ in found[:5]] == [0, 10, 20, 30, 40]
    assert all(at >= 500 for at, _ in found[5:])
    microseconds = int(found[0][1].partition("=")[2])
    assert microseconds == int((30 + MeshConfig().gateway.drain_timeout) * 1e6)


async def test_pings_come_from_the_turns_of_the_loop(autojump_clock: MockClock) -> None:
    async with reported_supervisor([make_plugin_config("p")], ping_interval=1.5) as it:
        await it.harness.run_until(15.5)
        assert [at for at, _ in it.socket.get("WATCHDOG")] == [1.5 * n for n in range(11)]
        # The loop no longer goes round, and all else does.
        supervisor = it.harness.supervisor
        turn = supervisor.on_turn
        supervisor.on_turn = lambda now: turn(now) and float("inf")
        await it.harness.run_until(100)
        assert len(it.socket.get("WATCHDOG")) == 12
        assert it.harness.states() == {"p/0": "ready"}


async def test_a_reload_is_reported_and_its_failure_is_in_the_status(
    autojump_clock: MockClock,
) -> None:
    plugin = make_plugin_config("p", ready_timeout=50)
    scripts = {"p": [ProcessScript(), ProcessScript(ready_after=45), NEVER_READY]}
    async with reported_supervisor([plugin], scripts) as it:
        await it.harness.run_until(10)
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        changed = make_plugin_config("p", ready_timeout=50, env={"A": "1"})
        await it.harness.operations.reload(MeshConfig([changed]))
        assert it.states[1:] == [(10, "RELOADING"), (55.1, "READY")]
        clock = [int(t[15:]) for _, t in it.socket.sent if t.startswith("MONOTONIC_USEC=")]
        assert before <= clock[0] <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert it.statuses[-1] == "1 of 1 plugin ready"
        assert len([at for at, _ in it.socket.get("EXTEND_TIMEOUT_USEC") if at >= 10]) == 5

        changed = make_plugin_config("p", ready_timeout=50, env={"A": "2"})
        with pytest.raises(PluginFailedError):
            await it.harness.operations.reload(MeshConfig([changed]))
        assert [text for _, text in it.states[3:]] == ["RELOADING", "READY"]
        assert "1 of 1 plugin ready; the last reload failed: " in it.statuses[-1]

        async def load() -> MeshConfig:
            raise ConfigError(["mesh.toml: one", "mesh.toml: two"])

        with pytest.raises(ConfigError):
            await it.harness.operations.load_and_reload(load)
        assert [text for _, text in it.states[5:]] == ["RELOADING", "READY"]
        assert it.statuses[-1].endswith("failed: mesh.toml: one")


async def test_concurrent_reloads_end_with_the_last(autojump_clock: MockClock) -> None:
    async with reported_supervisor([]) as it:
        await it.harness.run_until(1)
        with it.notifier.reloading():
            await it.harness.run_until(2)
            with it.notifier.reloading():
                await it.harness.run_until(3)
            await it.harness.run_until(4)
            assert it.statuses[-1] == "reloading; 0 of 0 plugins ready"
        assert it.states == [(0, "READY"), (1, "RELOADING"), (2, "RELOADING"), (4, "READY")]


async def test_a_reload_during_start_or_stop_ends_neither(autojump_clock: MockClock) -> None:
    scripts = {"p": [ProcessScript(ready_after=10, stop_duration=4)]}
    async with reported_supervisor([make_plugin_config("p", ready_timeout=20)], scripts) as it:
        await it.harness.run_until(1)
        with it.notifier.reloading():
            await it.harness.run_until(2)
        assert it.states == []
        await it.harness.run_until(20)
        with it.notifier.reloading():
            await it.harness.run_until(21)
            it.harness.supervisor.start_shutdown()
            await it.harness.run_until(22)
        with it.notifier.reloading():
            pass
    assert it.states == [(10, "READY"), (20, "RELOADING"), (21, "STOPPING")]


async def test_the_status_changes_once_a_second_at_most(autojump_clock: MockClock) -> None:
    plugins = [make_plugin_config(f"p{n}") for n in range(10)]
    scripts = {f"p{n}": [ProcessScript(ready_after=n / 5)] for n in range(10)}
    async with reported_supervisor(plugins, scripts) as it:
        await it.harness.run_until(30)
        assert it.states == [(1.8, "READY")]
        times = [at for at, _ in it.socket.get("STATUS")]
        assert times == [0, 1, 1.8]
        assert it.statuses[-1] == "10 of 10 plugins ready"


async def test_changes_of_state_are_sent_again_in_order(autojump_clock: MockClock) -> None:
    def refuse(socket: RecordingSocket) -> None:
        socket.accepts = False

    async with reported_supervisor([make_plugin_config("p")], prepare=refuse) as it:
        await it.harness.run_until(5.2)
        with it.notifier.reloading():
            await it.harness.run_until(6.2)
        it.socket.accepts = True
        await it.harness.run_until(8)
        assert [text for _, text in it.states] == ["READY", "RELOADING", "READY"]
        assert 6.2 <= it.states[0][0] <= 6.7


async def test_a_reload_that_is_cancelled_has_not_failed(autojump_clock: MockClock) -> None:
    async with reported_supervisor([]) as it:
        await it.harness.run_until(1)
        with trio.move_on_after(1):
            with it.notifier.reloading():
                await trio.sleep_forever()
        assert it.states == [(0, "READY"), (1, "RELOADING"), (2, "READY")]
        assert it.statuses[-1] == "0 of 0 plugins ready"


async def test_a_bug_in_the_report_is_logged_once_and_the_mesh_goes_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> str:
        raise ZeroDivisionError

    async with reported_supervisor([make_plugin_config("p")], ping_interval=1) as it:
        await it.harness.run_until(5)
        monkeypatch.setattr("meshtrio.systemd.notifier.describe_mesh", fail)
        await it.harness.operations.reload(it.harness.supervisor.config)
        await it.harness.run_until(10)
        assert [at for at, _ in it.socket.get("WATCHDOG")][-1] == 10
        assert [text for _, text in it.states] == ["READY", "RELOADING", "READY"]
        assert caplog.text.count("cannot report the state of the mesh") == 1
        assert it.harness.states() == {"p/0": "ready"}
