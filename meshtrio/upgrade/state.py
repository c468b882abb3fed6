"""The state of a mesh as its new program gets it, in memory that execve(2) keeps."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping

import attrs

from meshtrio.cluster.node import SavedNode
from meshtrio.config import MeshConfig
from meshtrio.services.event_log import SavedEvents
from meshtrio.services.kept_registrations import SavedRegistration
from meshtrio.services.saved_history import SavedHistory
from meshtrio.supervisor.operations import Execution
from meshtrio.supervisor.process.saved_processes import CLOSED, SavedProcess
from meshtrio.supervisor.saved_state import SavedSupervisor
from meshtrio.util.errors import UsageError
from meshtrio.util.plain_data import PlainDataError, from_plain, to_plain
from meshtrio.util.version import VERSION

FORMAT = 1
"""Version of the format. Fields may be added without another one; see `util.plain_data`."""
STATE_VARIABLE = "MESHTRIO_UPGRADE_STATE"
"""Environment variable with the number of the state's descriptor; removed as soon as it is read."""


@attrs.frozen(kw_only=True)
class SavedProgram:
    """What the new program needs of the process itself."""

    signal_pipe: int
    """The pipe with the numbers of signals that arrived at last."""
    blocked_signals: tuple[int, ...] = ()
    """The signals that were blocked before the upgrade."""
    descriptor_limit: tuple[int, int] | None = None
    """The limit of descriptors before it was raised."""


@attrs.frozen(kw_only=True)
class SavedMesh:
    """The state of a mesh."""

    format: int = FORMAT
    version: str = VERSION
    """The version of meshtrio that has written it."""
    execution: Execution
    """That of the new program."""
    uses_saved_config: bool = False
    """Whether the config that was in force is used, since the new one has failed."""
    runtime_dir: str
    claim: tuple[int, int]
    """The descriptors of the runtime dir and of its lock file."""
    listeners: Mapping[str, int]
    """The listening sockets, by address."""
    passed_sockets: Mapping[str, int] = attrs.field(factory=dict)
    """Those that systemd has passed, by name."""
    supervisor: SavedSupervisor
    registrations: tuple[SavedRegistration, ...] = ()
    next_registration: int = 1
    events: SavedEvents = attrs.field(factory=SavedEvents)
    history: SavedHistory = attrs.field(factory=SavedHistory)
    node: SavedNode | None = None
    program: SavedProgram | None = None

    def descriptors(self) -> Iterator[int]:
        """Yield the descriptors that the new program inherits."""
        yield from self.claim
        yield from self.listeners.values()
        yield from self.passed_sockets.values()
        if self.program is not None:
            yield self.program.signal_pipe
        processes = self.supervisor.processes
        yield from (processes.mesh_run.pidfd, processes.warden.pidfd, processes.warden.socket)
        yield from processes.warden.watched.values()
        if processes.cgroup_lock is not None:
            yield processes.cgroup_lock
        yield from (each.pidfd for each in processes.reparented)
        yield from (each.pidfd for each in processes.deferred if each.pidfd >= 0)
        for template in processes.templates:
            yield template.control
            yield from _descriptors_of(template.process)
        for instance in self.supervisor.instances:
            if (run := instance.run) is not None:
                yield from _descriptors_of(run.process)
                if run.notifications is not None:
                    yield run.notifications.descriptor

    def initial_config(self, config: MeshConfig) -> MeshConfig:
        """Return the config to begin with: the new one, with the plugins that there are.

        Raises:
            ConfigError: They do not go together.
        """
        before = self.supervisor.config
        return attrs.evolve(
            config,
            plugins=before.plugins,
            groups=before.groups,
            tasks=before.tasks,
            max_instances=max(config.max_instances, before.max_instances),
        )


def _descriptors_of(process: SavedProcess) -> Iterator[int]:
    yield process.pidfd
    pipes = (process.stdout.descriptor, process.stderr.descriptor)
    yield from (each for each in pipes if each != CLOSED)


def write_state(saved: SavedMesh) -> int:
    """Write a state to memory; return the descriptor, which is not inheritable. Raises OSError."""
    descriptor = os.memfd_create("meshtrio-upgrade", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "w", encoding="ascii", closefd=False) as file:
            file.write(json.dumps(to_plain(saved)))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def read_state(descriptor: int) -> SavedMesh:
    """Read a state. Raises UsageError if this version of the program cannot use it."""
    try:
        data = json.loads(os.pread(descriptor, os.fstat(descriptor).st_size, 0))
        found = data.get("format")
    except (OSError, ValueError, AttributeError) as exc:
        raise UsageError(f"the state of the running mesh cannot be read: {exc}") from None
    if found != FORMAT:
        text = f"the running mesh ({data.get('version')}) has a state of format {found}"
        raise UsageError(
            f"{text}, and meshtrio {VERSION} can only take over format {FORMAT}; restart the mesh"
        )
    try:
        return from_plain(SavedMesh, data)
    except PlainDataError as exc:
        text = f"the state of the running mesh ({data.get('version')}) cannot be used by"
        raise UsageError(f"{text} meshtrio {VERSION}: {exc}") from None
