"""What one process run of an instance is to be: its plugin, its place and its id."""

from __future__ import annotations

import secrets
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import attrs

from meshtrio.config import PluginConfig, TelemetryConfig
from meshtrio.config.ready import Check, LivenessCheck, ServerCheck
from meshtrio.runtime_dir.notify_socket import notify_socket_path
from meshtrio.supervisor.held_socket import HeldSocket


@attrs.frozen(kw_only=True)
class RunSpec:
    """All that a process run is made of; the same for each of its parts."""

    config: PluginConfig
    """The plugin's configuration."""
    number: int
    """The number of the instance, from 0."""
    slot: int
    """Which of the instance's two addresses the process uses, 0 or 1; a replacement uses the one
    that its predecessor does not."""
    socket: Path
    """The Unix socket at which it serves, unless its config has `listen`."""
    mesh_socket: Path
    """The mesh's own socket, in its runtime directory."""
    telemetry: TelemetryConfig
    """What the plugin is to measure and trace."""
    held_socket: HeldSocket | None = None
    """The listening socket that it inherits, with `listen_fds`."""
    launch_id: str = attrs.field(factory=lambda: secrets.token_hex(8))
    """The id that its processes inherit, by which they are found if they leave their group."""

    @property
    def notify_socket(self) -> Path | None:
        """The socket to which it sends notifications; None if it does not."""
        if not self.config.uses_notifications:
            return None
        folder = self.mesh_socket.parent
        return notify_socket_path(folder, self.config, self.number, self.slot)

    @property
    def ready_check(self) -> Check:
        """What is checked until it is ready."""
        check = self.config.ready_check
        return check.for_instance(self.number) if isinstance(check, ServerCheck) else check

    @property
    def liveness_check(self) -> LivenessCheck | None:
        """What is checked from then on."""
        check = self.config.liveness_check
        return check.for_instance(self.number) if isinstance(check, ServerCheck) else check

    @property
    def listen(self) -> str | None:
        """The TCP address at which it serves; None if it serves at `socket`."""
        return self.config.instance_address(self.number, self.slot)

    def use_held_socket(self) -> AbstractContextManager[object]:
        """Return the context in which the run has its held socket, if it has one."""
        return nullcontext() if self.held_socket is None else self.held_socket.used_by_run()

    @property
    def address(self) -> str:
        """The address at which it serves."""
        return self.listen or f"unix:{self.socket}"
