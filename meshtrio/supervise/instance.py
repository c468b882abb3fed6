"""One instance of a plugin: one process after another, as its policy has it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import attrs
import trio

from meshtrio.config import PluginConfig
from meshtrio.registry import Registry
from meshtrio.rpc.endpoint import Departure, Endpoint
from meshtrio.supervise import events
from meshtrio.supervise.output import read_lines
from meshtrio.supervise.policy import Exit, Finish, History, decide
from meshtrio.supervise.probe import NotReadyError, wait_ready
from meshtrio.supervise.process import Process
from meshtrio.supervise.state import State, follow
from meshtrio.supervise.warden import Warden

_STDERR_KEPT = 20
_LAST_OUTPUT = 0.02
"""Seconds the last output of a dead process has to be read in before its callers are told."""
_PIPE_HELD = 0.2
"""Seconds that a pipe is read for after the end, which only a process of another group can hold."""


@attrs.frozen
class Surroundings:
    """What an instance uses of its mesh."""

    registry: Registry
    warden: Warden
    rng: Random
    mesh_socket: Path
    emit: events.Subscriber


@attrs.frozen
class Status:
    """An instance as it is now; times are seconds."""

    name: str
    instance: int
    state: State
    pid: int | None
    restarts: int
    uptime: float | None
    socket: Path
    reason: str


class Instance:
    """Number `number` of a plugin; `run` owns its processes and their entries in the registry."""

    def __init__(self, config: PluginConfig, number: int, socket: Path, mesh: Surroundings) -> None:
        self.config = config
        self.number = number
        self.socket = socket
        self.state = State.PENDING
        self.history = History()
        self._mesh = mesh
        self._process: Process | None = None
        self._started = 0.0
        self._life = 0
        self._registered: Endpoint | None = None
        self._reason = ""
        self._stderr: deque[str] = deque(maxlen=_STDERR_KEPT)

    def status(self) -> Status:
        alive = self._process is not None
        return Status(
            name=self.config.name,
            instance=self.number,
            state=self.state,
            pid=self._process.pid if self._process else None,
            restarts=self.history.restarts,
            uptime=trio.current_time() - self._started if alive else None,
            socket=self.socket,
            reason=self._reason,
        )

    async def run(self) -> None:
        """Live until the policy gives up, or until cancelled, which stops the process first."""
        final = None
        try:
            final = await self._live_again_and_again()
        finally:
            if final is not None:
                self._become(final)
            elif self.state in (State.PENDING, State.STOPPING, State.BACKOFF):
                self._become(State.STOPPED)

    async def _live_again_and_again(self) -> State:
        while True:
            ended = await self._live()
            uptime = trio.current_time() - self._started
            self._reason = str(ended)
            decision = decide(self.config, self.history, ended, uptime, self._mesh.rng)
            if isinstance(decision, Finish):
                self._emit(events.GaveUp, ended=ended)
                return State.FAILED if decision.failed else State.EXITED
            self.history = decision.history
            self._become(State.BACKOFF)
            self._emit(events.Restarting, delay=decision.delay)
            await trio.sleep(decision.delay)

    # -- one life ----------------------------------------------------------------------------

    async def _live(self) -> Exit:
        """Start a process and see it through to its end; when cancelled, stop it."""
        self._life += 1
        self._started = trio.current_time()
        self._stderr.clear()
        self._become(State.STARTING)
        try:
            with suppress(FileNotFoundError):
                os.unlink(self.socket)
            process = await Process.spawn(
                self.config.argv(), env=self._environment(), cwd=self.config.cwd
            )
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            return Exit(reason=f"could not be started: {reason}")
        self._process = process
        self._mesh.warden.watch(process.pid, process.pidfd)
        self._emit(events.Starting, pid=process.pid)
        try:
            async with self._output(process) as output_ended:
                return await self._see_through(process, output_ended)
        finally:
            self._mesh.warden.forget(process.pid)
            self._process = None

    async def _see_through(self, process: Process, output_ended: trio.Event) -> Exit:
        reason = None
        try:
            reason = await self._attend(process)
        finally:
            if reason is None:
                self._deregister("is being stopped")
                await self._stop(process)
        if process.returncode is None:
            # It never became ready.
            self._become(State.STOPPING)
            with trio.CancelScope(shield=True):
                await process.stop(self.config.stop_timeout)
        with trio.move_on_after(_LAST_OUTPUT, shield=True):
            await output_ended.wait()
        ended = self._exit(process, reason)
        self._deregister(str(ended), ended)
        self._emit(events.Exited, pid=process.pid, ended=ended)
        return ended

    async def _attend(self, process: Process) -> str:
        """Probe the process and wait for its end; gives why it has to be ended, "" if it did."""
        failure = ""

        async def probe() -> None:
            nonlocal failure
            try:
                await wait_ready(self._address, self.config.ready_timeout)
            except NotReadyError as exc:
                failure = str(exc)
                nursery.cancel_scope.cancel()
            else:
                # The process may have ended with its answer.
                await trio.lowlevel.checkpoint_if_cancelled()
                self._become_ready(process)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe)
            await process.wait()
            nursery.cancel_scope.cancel()
        return failure

    async def _stop(self, process: Process) -> None:
        """Stop it because the mesh was asked to, even though this task is cancelled already."""
        self._become(State.STOPPING)
        self._emit(events.Stopping, pid=process.pid)
        with trio.CancelScope(shield=True):
            forced = await process.stop(self.config.stop_timeout)
        ended = self._exit(process, "")
        self._reason = str(ended)
        self._emit(events.Stopped, pid=process.pid, ended=ended, forced=forced)

    def _exit(self, process: Process, reason: str) -> Exit:
        code = process.returncode
        assert code is not None
        return Exit(
            status=code if code >= 0 else None,
            signal=-code if code < 0 else None,
            reason=reason,
            stderr_tail=tuple(self._stderr),
        )

    # -- what others learn -------------------------------------------------------------------

    @property
    def _address(self) -> str:
        return f"unix:{self.socket}"

    def _become_ready(self, process: Process) -> None:
        self._become(State.READY)
        self._reason = ""
        self._registered = Endpoint(
            id=f"{self.config.name}-{self.number}-{process.pid}-{self._life}",
            address=self._address,
            instance=self.number,
            pid=process.pid,
        )
        self._mesh.registry.register(self.config.service, self._registered)
        after = trio.current_time() - self._started
        self._emit(events.Ready, pid=process.pid, after=after)

    def _deregister(self, reason: str, ended: Exit | None = None) -> None:
        endpoint, self._registered = self._registered, None
        if endpoint is None:
            return
        departure = Departure(
            endpoint_id=endpoint.id,
            reason=f"instance {self.number} (pid {endpoint.pid}) {reason}",
            exit_status=ended.status if ended else None,
            signal=ended.signal if ended else None,
            stderr_tail=ended.stderr_tail if ended else (),
        )
        self._mesh.registry.deregister(self.config.service, departure)

    def _become(self, state: State) -> None:
        self.state = follow(self.state, state)

    def _emit(self, kind: type[events.Event], **values: object) -> None:
        self._mesh.emit(kind(self.config.name, self.number, **values))

    # -- environment and output --------------------------------------------------------------

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.config.env,
            "PLUGIN_SOCKET": str(self.socket),
            "PLUGIN_NAME": self.config.name,
            "PLUGIN_INSTANCE": str(self.number),
            "PLUGIN_STOP_TIMEOUT": f"{self.config.stop_timeout:g}",
            "MESH_SOCKET": str(self._mesh.mesh_socket),
        }

    @asynccontextmanager
    async def _output(self, process: Process) -> AsyncIterator[trio.Event]:
        """Read the process's output during the block, whatever is cancelled, and to its end.

        Yields an event that is set when both pipes have ended.
        """
        ended = trio.Event()
        pipes = {"stdout": process.stdout, "stderr": process.stderr}

        async def read(stream: str, pipe: int) -> None:
            def deliver(line: str, cut: int) -> None:
                if stream == "stderr":
                    self._stderr.append(line)
                self._emit(events.LineWritten, pid=process.pid, stream=stream, line=line, cut=cut)

            with scopes[stream]:
                await read_lines(pipe, deliver)
            del pipes[stream]
            if not pipes:
                ended.set()

        scopes = {stream: trio.CancelScope(shield=True) for stream in pipes}
        async with trio.open_nursery() as nursery:
            for stream, pipe in list(pipes.items()):
                nursery.start_soon(read, stream, pipe)
            try:
                yield ended
            finally:
                for scope in scopes.values():
                    scope.deadline = trio.current_time() + _PIPE_HELD
