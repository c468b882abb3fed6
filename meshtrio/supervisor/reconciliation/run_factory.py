"""Makes the runs of instances, with what all runs of a mesh have in common."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import attrs

from meshtrio.config import TelemetryConfig
from meshtrio.discovery.registry import Registry
from meshtrio.runtime_dir import directory as runtime_dir
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.instance import Instance
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.runs.process_run import ProcessRun
from meshtrio.supervisor.runs.saved_run import SavedRun, adopt_run
from meshtrio.supervisor.saved_instance import SavedInstance, adopt_instance


@attrs.frozen(kw_only=True)
class RunFactory:
    """Makes specs and runs; it starts none."""

    registry: Registry
    """Gets the endpoints of runs that are ready."""
    effects: Effects
    """The system."""
    directory: Path
    """The runtime directory of the mesh, with the sockets."""
    mesh_socket: Path
    """The socket of the mesh."""
    telemetry: TelemetryConfig
    """The telemetry of the mesh, which does not change while it runs."""
    emit: Callable[..., None]
    """Called as `emit(instance, kind, **values)` for events."""
    on_change: Callable[[], None]
    """Called after each change of the state of a run."""

    def find_socket(self, instance: Instance, slot: int) -> Path:
        """Return the path of the socket of an instance for one of its two addresses."""
        config = instance.config
        return runtime_dir.plugin_socket_path(self.directory, config, instance.number, slot)

    def make_spec(self, instance: Instance, slot: int) -> RunSpec:
        """Make the spec of a run that an instance could have now at one of its two addresses."""
        return RunSpec(
            config=instance.config,
            number=instance.number,
            slot=slot,
            socket=self.find_socket(instance, slot),
            mesh_socket=self.mesh_socket,
            telemetry=self.telemetry,
        )

    def make_run(self, instance: Instance, slot: int) -> ProcessRun:
        """Make a run of an instance at one of its two addresses."""
        return self._make_run(instance, self.make_spec(instance, slot))

    def adopt_instance(self, instance: Instance, saved: SavedInstance) -> None:
        """Take over an instance from before an upgrade, with its socket and its process."""
        adopt_instance(instance, saved)
        if instance.config.listen_fds and not instance.phase.is_final:
            address = self.make_spec(instance, instance.slot).address
            instance.held_sockets.get(address).adopt()
        if saved.run is not None:
            instance.active_run = self._make_adopted_run(instance, saved.run)

    def _make_adopted_run(self, instance: Instance, saved: SavedRun) -> ProcessRun:
        spec = RunSpec(
            config=saved.config,
            number=instance.number,
            slot=saved.slot,
            socket=saved.socket,
            mesh_socket=self.mesh_socket,
            telemetry=self.telemetry,
            launch_id=saved.launch_id,
        )
        run = self._make_run(instance, spec)
        adopt_run(run, saved, self.effects)
        return run

    def _make_run(self, instance: Instance, spec: RunSpec) -> ProcessRun:
        if spec.config.listen_fds:
            held_socket = instance.held_sockets.get(spec.address)
            spec = attrs.evolve(spec, held_socket=held_socket)
        return ProcessRun(
            spec,
            registry=self.registry,
            effects=self.effects,
            line_buffer=instance.line_buffer,
            emit=partial(self.emit, instance),
            on_change=self.on_change,
        )
