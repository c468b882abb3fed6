"""One template process, from its start to its end."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio

from meshtrio import contract
from meshtrio.supervisor.process.cleanup.cgroup import Cgroups
from meshtrio.supervisor.process.cleanup.leftover_killer import (
    LeftoverReport,
    RunIdentity,
    get_boot_ticks,
)
from meshtrio.supervisor.process.cleanup.mesh_run import MeshRun
from meshtrio.supervisor.process.cleanup.warden import Warden
from meshtrio.supervisor.process.cleanup.zombie_reaper import reap_pids
from meshtrio.supervisor.process.output.pipe_reader import read_pipe
from meshtrio.supervisor.process.proc.proc_scanner import get_scanner
from meshtrio.supervisor.process.saved_processes import (
    CLOSED,
    SavedTemplate,
    from_monotonic,
    to_monotonic,
)
from meshtrio.supervisor.process.spawn import launcher_main
from meshtrio.supervisor.process.spawn.child_process import CHILD_REGISTRY
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.process.spawn.signal_dispositions import needs_signal_reset
from meshtrio.supervisor.process.template.fork_start import (
    ForkStart,
    TemplateError,
    TemplateFailedError,
)
from meshtrio.supervisor.process.template.template_key import TemplateKey
from meshtrio.supervisor.process.template.template_output import TemplateOutput
from meshtrio.util.concurrency import find_exit_exception, split_cancelled

_log = logging.getLogger("meshtrio.mesh")

_SCRIPT = str(Path(__file__).with_name("template_main.py"))
_LAUNCHER = str(Path(launcher_main.__file__))
_MAX_MESSAGE_LENGTH = 4096
_OUTPUT_TIMEOUT = 0.2
"""Seconds for which the output of a template that has exited is read, if others hold it open."""
_MAX_REAP_ROUNDS = 40
_REAP_PAUSE = 0.025
_START_ERRORS = (OSError, ValueError, KeyError, RuntimeError)


@attrs.frozen(kw_only=True)
class TemplateEffects:
    """What templates use of the mesh."""

    mesh_run: MeshRun
    guard: Warden
    cgroups: Cgroups | None
    kill_orphans: Callable[[RunIdentity], Awaitable[LeftoverReport]]


class Template:
    """A template process; `run` owns it."""

    def __init__(
        self,
        key: TemplateKey,
        effects: TemplateEffects,
        name: str,
        adopted: SavedTemplate | None = None,
    ) -> None:
        """Start nothing until `run`; `adopted` is a template that was started before an upgrade."""
        self.key = key
        self._stdout, self._stderr = TemplateOutput(name), TemplateOutput(name)
        self.settled = trio.Event()
        """Set once it serves, or it is known that it will not."""
        self.problem = ""
        """Why it cannot serve; "" if it can, or is not known to be unable."""
        self.scope = trio.CancelScope()
        """Ends the process when it is cancelled."""
        self._name = name
        self._effects = effects
        self._launch_id = secrets.token_hex(8)
        self._started_ticks = get_boot_ticks()
        self._process: PluginProcess | None = None
        self._control: socket.socket | None = None
        self._send_lock = trio.Lock()
        self.was_ready = False
        """Whether it has served."""
        self._started_at = trio.current_time()
        self._preload_scope = trio.CancelScope(deadline=self._started_at)
        if adopted is not None:
            self._adopt(adopted)

    def _adopt(self, saved: SavedTemplate) -> None:
        self._launch_id, self._started_ticks = saved.launch_id, saved.started_ticks
        self._started_at = from_monotonic(saved.started_at)
        self._process = PluginProcess.adopt(saved.process)
        self._stdout.adopt(saved.process.stdout)
        self._stderr.adopt(saved.process.stderr)
        self._control = socket.socket(fileno=saved.control)
        self._control.setblocking(False)
        self.was_ready = True
        self.settled.set()

    @property
    def is_steady(self) -> bool:
        """Whether it serves, and is not about to end."""
        process = self._process
        return self.is_ready and process is not None and not process.leader_exited.is_set()

    def save(self, plugins: tuple[str, ...]) -> SavedTemplate:
        """Return what an upgrade hands over, while it serves."""
        process, control = self._process, self._control
        assert process is not None
        assert control is not None
        stdout, stderr = self._stdout.save(process.stdout), self._stderr.save(process.stderr)
        return SavedTemplate(
            key=self.key.save(),
            name=self._name,
            launch_id=self._launch_id,
            process=process.save(stdout, stderr),
            control=control.fileno(),
            started_at=to_monotonic(self._started_at),
            started_ticks=self._started_ticks,
            plugins=plugins,
        )

    @property
    def is_ready(self) -> bool:
        """Whether it serves."""
        return self._control is not None and not self.scope.cancel_called

    @property
    def has_ended(self) -> bool:
        """Whether it serves no more, or never will."""
        return self.settled.is_set() and not self.is_ready

    def allow_imports(self, timeout: float) -> None:
        """Let the imports take at least that long, in seconds since it was started."""
        deadline = self._started_at + timeout
        self._preload_scope.deadline = max(self._preload_scope.deadline, deadline)

    async def run(self) -> None:
        """Start the process, and supervise it until it exits.

        Cancellation: Kills the process, which has nothing to do at its end.
        """
        try:
            with self.scope:
                await self._run()
        except _START_ERRORS as exc:
            self._fail(f"the template could not be started: {exc}")
        except (Exception, BaseExceptionGroup) as exc:
            cancelled, error = split_cancelled(exc)
            if error is None or find_exit_exception(error) is not None:
                raise
            _log.error("%s: internal error", self._name, exc_info=error)
            if cancelled is not None:
                raise cancelled from None
        finally:
            self._fail("the template has ended")

    def describe_timeout(self, timeout: float) -> str:
        """Return the reason why it does not serve if the imports take more than `timeout`."""
        return f"importing {', '.join(self.key.modules)} took more than {timeout:g} s"

    def _fail(self, problem: str) -> None:
        """Set the reason why it does not serve, unless there is one."""
        self.problem = self.problem or problem
        self._control = None
        self.settled.set()

    async def fork(
        self,
        content: Mapping[str, Any],
        cgroup: Path | None,
        env: Mapping[str, str],
        listener: int | None = None,
    ) -> PluginProcess:
        """Fork a process that gets the marks of a process run; see `ForkStart.run`.

        Args:
            content: What the child is to become, apart from what is added here.
            cgroup: The cgroup of the process run.
            env: Its environment, without the marks.
            listener: The descriptor of the listening socket that it inherits, if it does.

        Raises:
            TemplateError: That failed.
            OSError: No descriptors are left.
        """
        if self._process is None or self._control is None:
            raise TemplateError(self.problem)
        mesh_run = self._effects.mesh_run
        env, limit = mesh_run.make_marks(env)
        marks = {"env": env, "marker_limit": limit, "pidfd_number": mesh_run.pidfd}
        start = ForkStart(
            template=self._process,
            control=self._control,
            send_lock=self._send_lock,
            content={**content, **marks, "has_listener": listener is not None},
            cgroup=cgroup,
            listener=listener,
        )
        try:
            return await start.run()
        except TemplateFailedError as exc:
            self._fail(str(exc))  # Before `run` notices it.
            self.scope.cancel()
            raise

    # -- the process ---------------------------------------------------------------------------

    async def _run(self) -> None:
        process, own_socket = self._process, self._control
        identity = RunIdentity(self._launch_id, self._started_ticks)
        if process is not None and own_socket is not None:  # It was adopted.
            with own_socket:
                await self._run_process(process, own_socket, identity)
            return
        own_socket, socket_of_template = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        own_socket.setblocking(False)
        with own_socket:
            with socket_of_template:
                process = await self._spawn(socket_of_template.fileno())
            self._effects.guard.templates.add(process.pid)
            self._effects.guard.watch(process.pid, process.pidfd)
            self._process = process
            await self._run_process(process, own_socket, identity)

    async def _run_process(
        self, process: PluginProcess, own_socket: socket.socket, identity: RunIdentity
    ) -> None:
        try:
            await self._supervise(process, own_socket)
        finally:
            self._fail("the template has exited")
            with trio.CancelScope(shield=True):
                await process.stop(0)
                await self._clean_up(process, identity)

    async def _spawn(self, control: int) -> PluginProcess:
        effects, key = self._effects, self.key
        cgroup = None
        if effects.cgroups is not None:
            cgroup = effects.cgroups.create(self._launch_id, None)
        settings = {
            "control": control,
            "mesh_pid": os.getpid(),
            "modules": key.modules,
            "search_path": key.search_path,
        }
        command = [*key.interpreter, _SCRIPT, json.dumps(settings)]
        if cgroup is not None or any(key.containment.values()) or needs_signal_reset():
            launch = json.dumps({**key.containment, "cgroup": cgroup and str(cgroup)})
            command = [sys.executable, "-I", "-S", _LAUNCHER, launch, *command]
        return await effects.mesh_run.spawn(
            command,
            env={**dict(key.env), contract.MESH_LAUNCH_ID: self._launch_id},
            cwd=Path(key.cwd),
            cgroup=cgroup,
            pass_fds=(control,),
        )

    async def _supervise(self, process: PluginProcess, own_socket: socket.socket) -> None:
        """Read its output until it exits, and have it serve once it is ready."""
        async with trio.open_nursery() as nursery:
            outputs = (process.stdout, self._stdout), (process.stderr, self._stderr)
            for pipe, output in outputs:
                if pipe != CLOSED:
                    nursery.start_soon(read_pipe, pipe, output, process.leader_exited)
            if not self.was_ready:
                nursery.start_soon(self._await_ready, own_socket, process)
            await process.wait()
            if self.was_ready and not self.scope.cancel_called:
                text = "%s (pid %d) exited unexpectedly; the next start by fork gets another one"
                _log.warning(text, self._name, process.pid)
            nursery.cancel_scope.deadline = trio.current_time() + _OUTPUT_TIMEOUT
        if not self.settled.is_set():
            self._fail(_describe_exit(process, self._stderr.last_line))

    async def _await_ready(self, own_socket: socket.socket, process: PluginProcess) -> None:
        """Wait until the template has imported its modules; end it if that fails."""
        message = b""
        with self._preload_scope as scope:
            await trio.lowlevel.wait_readable(own_socket)
            message = own_socket.recv(_MAX_MESSAGE_LENGTH)
        if message == b"ready":
            _log.debug("%s: serving as pid %d", self._name, process.pid)
            self._control, self.was_ready = own_socket, True
            self.settled.set()
            return
        if scope.cancelled_caught:
            self._fail(self.describe_timeout(scope.deadline - self._started_at))
        elif message:
            self._fail(message.decode(errors="replace"))
        process.kill()

    async def _clean_up(self, process: PluginProcess, identity: RunIdentity) -> None:
        """Kill what its modules have left, and reap children that it has not reported."""
        guard = self._effects.guard
        identity = attrs.evolve(identity, session_id=process.pid)
        if process.is_reaped:
            identity = attrs.evolve(identity, session_end_ticks=get_boot_ticks())
        await self._effects.kill_orphans(identity)
        await _reap_children(identity)
        process.reap_later(partial(guard.unwatch, process.pid))


async def _reap_children(template: RunIdentity) -> None:
    """Reap the children of this process in the session of a template that has exited.

    They were forked, but the template was killed before it reported them. They were waiting at the
    gate, which is closed, in the template's group, which was killed.
    """
    for _ in range(_MAX_REAP_ROUNDS):
        try:
            stats = await get_scanner().read_stats()
        except (OSError, RuntimeError):
            return
        children = [stat for stat in stats if stat.ppid == os.getpid()]
        lost = {stat.pid for stat in children if template.has_in_session(stat)}
        if not lost - CHILD_REGISTRY.pids:
            return
        reap_pids(lost)
        await trio.sleep(_REAP_PAUSE)


def _describe_exit(process: PluginProcess, last_line: str) -> str:
    code = process.returncode
    ended = f"exited with status {code}"
    if code is not None and code < 0:
        name = f"signal {-code}"
        with contextlib.suppress(ValueError):  # Real-time signals have no names.
            name = signal.Signals(-code).name
        ended = f"was killed by {name}"
    return f"the template {ended} during its imports{last_line and f': {last_line}'}"
