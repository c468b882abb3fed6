"""The log level of a plugin is changed while it runs: at the mesh, and in its processes."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest
from google.protobuf.message_factory import GetMessageClass

from meshtrio.client.mesh_connection import connect_to_mesh
from meshtrio.client.multicallable import DynamicStub
from meshtrio.client.reflection import fetch_types, list_services
from meshtrio.config import LogLevel
from meshtrio.messages import control
from meshtrio.services import log_level_controller
from meshtrio.services.log_level_controller import InstanceLevel, PluginLevel
from meshtrio.supervisor import events
from meshtrio.util.errors import UnknownNameError, UsageError
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.log_levels import (
    log_on_all_levels,
    logged_messages,
    logging_echo_table,
    with_level,
)
from tests.support.mesh_processes import plugin_table


@asynccontextmanager
async def connect_control(watched: RecordedMesh) -> AsyncIterator[Any]:
    async with connect_to_mesh(watched.mesh.socket) as channel:
        yield DynamicStub(channel, control.DESCRIPTOR.services_by_name["Control"])


async def wait_for_level(watched: RecordedMesh, level: str) -> None:
    """Wait until every process reports that it logs from a level on."""
    request = control.GetLogLevelsRequest()
    with trio.fail_after(30):
        async with connect_control(watched) as stub:
            while True:
                plugins = (await stub.GetLogLevels(request)).plugins
                if all(each.level == level for found in plugins for each in found.instances):
                    return


def pids(watched: RecordedMesh) -> list[int | None]:
    return [status.pid for status in watched.mesh.instances()]


async def test_a_level_is_changed_at_the_mesh_and_in_the_process(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    caplog.handler.setLevel(logging.NOTSET)
    async with run_mesh(logging_echo_table(), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        await log_on_all_levels(watched, "before")
        (pid,) = pids(watched)
        found = await watched.mesh.set_log_level("talkative", "debug")
        told = InstanceLevel(0, pid, "debug")
        assert found == (PluginLevel("talkative", LogLevel.DEBUG, (told,)),)
        await log_on_all_levels(watched, "debugged")
        await watched.mesh.set_log_level("plugin.talkative", LogLevel.ERROR)
        await log_on_all_levels(watched, "errors")
        assert pids(watched) == [pid]
    assert logged_messages(caplog, "talkative") == [
        *("info before", "warning before", "error before"),
        *("debug debugged", "info debugged", "warning debugged", "error debugged"),
        "error errors",
    ]
    # What it does not log itself is not written either.
    assert len(watched.find_events(events.LineWritten)) == 8
    levels = [each.event.level for each in watched.find_events(events.LogLevelSet)]  # type: ignore[attr-defined]
    assert levels == [LogLevel.DEBUG, LogLevel.ERROR]


async def test_one_that_has_gone_to_another_level_is_told_again(short_dir: Path) -> None:
    async with run_mesh(logging_echo_table(), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        await watched.mesh.set_log_level("talkative", "debug")
        async with watched.mesh.connect("plugin.talkative") as channel:
            await channel.stub(EchoServiceStub).Echo(EchoRequest(message="quiet"))
        await wait_for_level(watched, "error")
        (found,) = await watched.mesh.set_log_level("talkative", "debug")
        assert found.instances[0].level == "debug"


async def test_processes_that_are_started_later_have_it_too(short_dir: Path) -> None:
    async with run_mesh(logging_echo_table(), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        await watched.mesh.set_log_level("talkative", "warning")
        await watched.mesh.scale("talkative", 2)
        await watched.mesh.restart("talkative")
        (pid, _) = pids(watched)
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await watched.wait_for_event(events.Ready, count=5)
        async with connect_control(watched) as stub:
            request = control.GetLogLevelsRequest(names=["talkative"])
            (found,) = (await stub.GetLogLevels(request)).plugins
        assert found.level == "warning"
        assert [(each.level, each.note) for each in found.instances] == [("warning", "")] * 2


async def test_one_that_is_starting_is_told_once_it_is_ready(short_dir: Path) -> None:
    gate = short_dir / "gate"
    os.mkfifo(gate)
    config = plugin_table("talkative", "logging_echo.py", str(gate), ready_timeout=60)
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Starting)
        (found,) = await watched.mesh.set_log_level("talkative", "debug")
        assert found.instances[0].note == "it is not ready"
        await trio.to_thread.run_sync(gate.write_text, "go\n")
        await watched.wait_for_event(events.Ready)
        await wait_for_level(watched, "debug")


async def test_a_reload_tells_the_processes_and_goes_back_to_the_config(short_dir: Path) -> None:
    async with run_mesh(logging_echo_table(instances=2), short_dir) as watched:
        await watched.wait_for_event(events.Ready, count=2)
        before, config = pids(watched), watched.mesh.config
        await watched.mesh.reload(with_level(config, LogLevel.ERROR))
        await wait_for_level(watched, "error")
        await watched.mesh.set_log_level("talkative", "debug")
        await wait_for_level(watched, "debug")
        assert (await watched.mesh.reload(config)).adjusted == ("talkative",)
        await wait_for_level(watched, "info")
        assert pids(watched) == before


async def test_a_program_goes_back_to_the_level_of_its_own(short_dir: Path) -> None:
    config = plugin_table("talkative", "logging_echo.py", "own", output={"log_level": "debug"})
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        await wait_for_level(watched, "debug")
        await watched.mesh.reload(with_level(watched.mesh.config, None))
        await wait_for_level(watched, "warning")


async def test_of_one_that_knows_no_levels_only_the_mesh_changes_it(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = plugin_table("minimal", "minimal.py") + plugin_table("gone", "-c", "", restart="never")
    async with run_mesh(config, short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        await watched.wait_for_event(events.GaveUp)
        (found,) = await watched.mesh.set_log_level("minimal", "error")
        assert found.level is LogLevel.ERROR
        assert found.instances[0].note == "it does not serve meshtrio.v1.Logging"
        (gone,) = await watched.mesh.set_log_level("gone", "error")
        assert gone.instances == (InstanceLevel(0, None, note="it does not run"),)
    assert not [each for each in caplog.records if "could not set log level" in each.getMessage()]


async def test_one_that_does_not_answer_holds_up_nobody_for_long(
    short_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_level_controller, "CALL_TIMEOUT", 2.0)
    async with run_mesh(logging_echo_table(), short_dir) as watched:
        await watched.wait_for_event(events.Ready)
        (pid,) = pids(watched)
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            (found,) = await watched.mesh.set_log_level("talkative", "debug")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert found.instances == (InstanceLevel(0, pid, note="it did not answer within 2 s"),)
        assert "talkative/0: could not set log level: " in caplog.text
        (found,) = await watched.mesh.set_log_level("talkative", "debug")
        assert found.instances == (InstanceLevel(0, pid, "debug"),)


async def test_what_there_is_not_is_told_with_what_there_is(short_dir: Path) -> None:
    async with run_mesh(logging_echo_table(), short_dir) as watched:
        with pytest.raises(UnknownNameError, match="no plugin 'nope'; the plugins are: talkative"):
            await watched.mesh.set_log_level("nope", "debug")
        unknown = "unknown log level 'loud'; choose from debug, info, warning, error"
        with pytest.raises(UsageError, match=unknown):
            await watched.mesh.set_log_level("talkative", "loud")
        async with connect_control(watched) as stub:
            with pytest.raises(purerpc.NotFoundError, match="the plugins are: talkative"):
                await stub.SetLogLevel(control.SetLogLevelRequest(name="nope", level="debug"))
            with pytest.raises(purerpc.NotFoundError):
                await stub.GetLogLevels(control.GetLogLevelsRequest(names=["nope"]))
            for level in ("loud", "", "DEBUG"):
                request = control.SetLogLevelRequest(name="talkative", level=level)
                with pytest.raises(purerpc.InvalidArgumentError, match="choose from debug"):
                    await stub.SetLogLevel(request)
        assert watched.mesh.config.plugins[0].output.log_level is None


async def test_reflection_tells_of_it(short_dir: Path) -> None:
    async with run_mesh(logging_echo_table(), short_dir) as watched:
        async with watched.mesh.connect("plugin.talkative") as channel:
            with trio.fail_after(20):
                assert "meshtrio.v1.Logging" in await list_services(channel)
                pool = (await fetch_types(channel, "meshtrio.v1.Logging")).pool
                stub = DynamicStub(channel, pool.FindServiceByName("meshtrio.v1.Logging"))
                said = pool.FindMessageTypeByName("meshtrio.v1.GetLevelRequest")
                assert (await stub.GetLevel(GetMessageClass(said)())).level == "info"
