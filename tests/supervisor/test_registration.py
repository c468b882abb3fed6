"""The registry entry of a run, whose service may be gone before it."""

from __future__ import annotations

from pathlib import Path

from meshtrio.config import TelemetryConfig
from meshtrio.discovery.endpoint import Endpoint, ExitInfo
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.runs.registration import Registration
from tests.support.fake_processes import make_plugin_config


def test_the_end_of_a_run_whose_service_was_removed_and_evicted_is_no_error() -> None:
    config = make_plugin_config("a")
    registry = Registry()
    registry.add_service(config.service_name)
    spec = RunSpec(
        config=config,
        number=0,
        slot=0,
        socket=Path("/nowhere/a"),
        mesh_socket=Path("/nowhere/mesh"),
        telemetry=TelemetryConfig(),
    )
    registration = Registration(registry, spec)
    registration.register(None)
    registry.remove_service(config.service_name)
    registration.deregister("is being stopped")
    for number in range(300):
        registry.register(f"s{number}", Endpoint("e", "unix:/e"))
        registry.deregister(f"s{number}", ExitInfo("e", "gone"))
    revision = registry.revision
    registration.deregister("was stopped")
    assert registry.revision == revision
    assert config.service_name not in registry.services()
