"""The place of an instance, held for a process that the mesh has not started.

An operator runs a plugin by hand in the place of an instance: `meshtrio attach`. The instance has
no run as long as the attachment exists. The process serves at the address of the instance; while it
answers there, it is in the registry as the instance. Its readiness and liveness have no timeouts,
since a debugger may stop it at any time.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import trio

from meshtrio import contract
from meshtrio.discovery.registry import Registry
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.supervisor.process.cleanup.leftover_killer import RunIdentity, get_boot_ticks
from meshtrio.supervisor.process.cleanup.process_tree import ProcessTree
from meshtrio.supervisor.run_spec import RunSpec
from meshtrio.supervisor.runs.environment import child_environment
from meshtrio.supervisor.runs.launch import LAUNCH_ERRORS, Launch
from meshtrio.supervisor.runs.registration import Registration
from meshtrio.supervisor.server_identity import ServerVerifier
from meshtrio.util.errors import UsageError
from meshtrio.util.users import look_up_user

_LISTEN_VARIABLES = ("LISTEN_FDS", "LISTEN_FDNAMES")
_CHECK_TIMEOUT = 5.0
"""Seconds that a health check waits for its answer."""
_UNREADY_CHECK_INTERVAL = 0.1
_READY_CHECK_INTERVAL = 1.0
_GONE = frozenset({Condition.UNREACHABLE, Condition.CLOSING})
"""What shows that the server has ended. One that does not answer may be stopped in a debugger."""


class Attachment:
    """Holds the place of one instance, and registers the server that answers there."""

    def __init__(
        self,
        spec: RunSpec,
        pid: int,
        *,
        registry: Registry,
        effects: Effects,
        on_change: Callable[[], None],
    ) -> None:
        """Create an attachment for the processes of `pid` and its descendants.

        `on_change` is called after each change of `is_ready`.
        """
        self.pid = pid
        """The process that holds the place, and is to start the server."""
        self.is_ready = False
        """Whether its server is registered."""
        self.revoked = trio.Event()
        """Set when the place is to be given back."""
        self.revoke_reason = ""
        """Why it is to be given back, as a sentence."""
        self.identity = RunIdentity(spec.launch_id, get_boot_ticks())
        """What the processes in the place are found by."""
        self.spec = spec
        self._effects = effects
        self._on_change = on_change
        self._registration = Registration(registry, spec)
        self._registration.pid = pid
        self._problem = "it has not started"

    def __str__(self) -> str:
        state = "" if self.is_ready else f", not ready: {self._problem}"
        return f"attached by pid {self.pid}{state}"

    def revoke(self, reason: str) -> None:
        """Ask the holder to give the place back."""
        if not self.revoked.is_set():
            self.revoke_reason = reason
            self.revoked.set()

    def environment(self) -> dict[str, str]:
        """Return the environment for the process, with the marks of the mesh and of this run.

        Raises:
            UsageError: The plugin's user does not exist.
        """
        variables = {**build_environment(self.spec), **self._effects.marks}
        # The process binds the address itself.
        return {name: text for name, text in variables.items() if name not in _LISTEN_VARIABLES}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Register the server whenever it answers, until cancelled.

        Raises:
            UsageError: The address cannot be used: another program answers there, for example.
        """
        try:
            uids = await Launch(self.spec, self._effects).prepare()
        except LAUNCH_ERRORS as exc:
            reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
            name = f"{self.spec.config.name}/{self.spec.number}"
            raise UsageError(f"nothing can take the place of {name}: {reason}") from None
        config = self.spec.config
        verifier = ServerVerifier(
            self.spec.address,
            ProcessTree(self.pid, self.spec.launch_id),
            uids,
            tls=config.tls,
            verify_process=config.verify_server,
        )
        task_status.started()
        try:
            if not config.has_service:
                self._set_ready(True)
                await trio.sleep_forever()
            while True:
                await self._check(verifier)
                interval = _READY_CHECK_INTERVAL if self.is_ready else _UNREADY_CHECK_INTERVAL
                await trio.sleep(interval)
        finally:
            if self.is_ready:
                self._set_ready(False, "was attached, and ends")

    async def _check(self, verifier: ServerVerifier) -> None:
        found = await self._effects.probe.check(_CHECK_TIMEOUT, verifier.connect)
        if found.is_serving:
            if not self.is_ready:
                self._registration.register(verifier.uid)
                self._set_ready(True)
            return
        self._problem = found.reason
        is_gone = found.condition in _GONE or found.is_wrong_server
        if self.is_ready and not found.is_busy and (found.is_alive or is_gone):
            self._set_ready(False, found.reason)

    def _set_ready(self, ready: bool, reason: str = "") -> None:
        self.is_ready = ready
        if not ready:
            self._registration.deregister(reason)
        self._on_change()


def build_environment(spec: RunSpec) -> dict[str, str]:
    """Build the environment of a process of a run, without the marks of the mesh.

    Raises:
        UsageError: The plugin's user does not exist.
    """
    user = spec.config.containment.user
    try:
        entry = None if user is None else look_up_user(user)
    except KeyError:
        raise UsageError(f"there is no user {user}") from None
    return child_environment(spec, inherited=os.environ, user=entry)


def without_marks(environment: dict[str, str]) -> dict[str, str]:
    """Return an environment that is safe to use elsewhere: what has the marks is killed."""
    marks = (contract.MESH_ID, contract.MESH_LAUNCH_ID, contract.MESH_PIDFD)
    return {name: value for name, value in environment.items() if name not in marks}
