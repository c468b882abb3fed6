"""Environments of plugin processes, as a mesh builds them."""

from __future__ import annotations

import pwd
from collections.abc import Mapping
from pathlib import Path

from meshtrio.config import PluginConfig, TelemetryConfig
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.runs.environment import child_environment


def environment_of(
    plugin: PluginConfig,
    telemetry: TelemetryConfig | None = None,
    *,
    instance: int = 0,
    slot: int = 0,
    inherited: Mapping[str, str] | None = None,
    user: pwd.struct_passwd | None = None,
) -> dict[str, str]:
    """Build the environment of a process of `plugin` whose mesh has `/run/mesh` as its folder."""
    spec = RunSpec(
        config=plugin,
        number=instance,
        slot=slot,
        telemetry=telemetry or TelemetryConfig(),
        launch_id="launch",
        socket=Path(f"/run/mesh/{plugin.name}-{instance}.sock"),
        mesh_socket=Path("/run/mesh/mesh.sock"),
    )
    return child_environment(spec, inherited=inherited or {}, user=user)
