"""Plugins that log on every level, and what has been logged of them."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoRequest

from meshtrio.config import LogLevel, MeshConfig
from tests.support.in_process_mesh import RecordedMesh
from tests.support.mesh_processes import plugin_table

ALL_LEVELS = ("debug", "info", "warning", "error")


def logging_echo_table(**settings: Any) -> str:
    return plugin_table("talkative", "logging_echo.py", **settings)


def logged_messages(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """Return the log messages of a plugin's lines."""
    return [each.getMessage() for each in caplog.records if each.name == f"meshtrio.plugin.{name}"]


async def log_on_all_levels(watched: RecordedMesh, end: str) -> None:
    """Have it log something on each level, and last what is always shown."""
    async with watched.mesh.connect("plugin.talkative") as channel:
        for level in ALL_LEVELS:
            said = EchoRequest(message=f"{level} {level} {end}")
            await channel.stub(EchoServiceStub).Echo(said)
    await watched.wait_for_line(f"error {end}")


def with_level(config: MeshConfig, level: LogLevel | None) -> MeshConfig:
    """Return the config with another level for all plugins."""
    plugins = [
        attrs.evolve(each, output=attrs.evolve(each.output, log_level=level))
        for each in config.plugins
    ]
    return attrs.evolve(config, plugins=plugins)
