"""Log levels that change while other operations are under way."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from meshtrio.config import LogLevel, MeshConfig
from meshtrio.services import instances
from meshtrio.services.instances import CallFailure, FailureKind
from meshtrio.services.log_level_controller import LogLevelController
from meshtrio.util.concurrency import background_service
from tests.support.fake_processes import make_plugin_config, make_supervisor


async def test_a_plugin_is_removed_during_changes_of_its_level(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first change is not over when the plugin is gone, and the second was to follow it."""
    was_removed = trio.Event()

    async def answer_once_removed(*args: Any, **options: Any) -> CallFailure:
        await was_removed.wait()
        return CallFailure(FailureKind.UNAVAILABLE, "it did not answer within 5 s")

    monkeypatch.setattr(instances, "call_instance", answer_once_removed)
    async with make_supervisor([make_plugin_config("p"), make_plugin_config("q")]) as harness:
        await harness.run_until(1)
        operations = harness.operations
        levels = LogLevelController(harness.supervisor, harness.registry, operations)
        async with background_service(levels.run), trio.open_nursery() as nursery:
            for level in (LogLevel.DEBUG, LogLevel.WARNING):
                nursery.start_soon(levels.set_level, "p", level)
                await trio.testing.wait_all_tasks_blocked()
            await operations.reload(MeshConfig([make_plugin_config("q")]))
            assert not harness.registry.has_service("plugin.p")
            was_removed.set()
            await trio.testing.wait_all_tasks_blocked()
            (found,) = await levels.set_level("q", LogLevel.ERROR)
            assert found.level is LogLevel.ERROR
