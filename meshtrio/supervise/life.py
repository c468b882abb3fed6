"""One life of an instance: one process, from its start to when it and its group are gone."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs
import trio
from trio_util import wait_any

from meshtrio import contract, runtime_dir
from meshtrio.client.endpoint import Departure, Endpoint
from meshtrio.config import PluginConfig
from meshtrio.structured import exit_in, without_cancelled
from meshtrio.supervise import events, liveness
from meshtrio.supervise.decisions.policy import Cause, Exit
from meshtrio.supervise.decisions.state import State, follow
from meshtrio.supervise.listening import Listener
from meshtrio.supervise.plugin_server import PluginServer
from meshtrio.supervise.probe import Connect, Health, NotReadyError
from meshtrio.supervise.processes.containment import (
    check_executable,
    command_of,
    environment_of,
    environment_of_lengths,
    environment_of_tls,
)
from meshtrio.supervise.processes.failed_start import (
    EXPLAINED_BY_PROGRAM,
    NOT_EXECUTED,
    is_exhaustion,
    why_not_started,
)
from meshtrio.supervise.processes.output import Ring
from meshtrio.supervise.processes.ownership import Owner
from meshtrio.supervise.processes.process import Process
from meshtrio.supervise.processes.remains import RunIdentity, ticks_now
from meshtrio.supervise.surroundings import Surroundings
from meshtrio.supervise.vitals import Vitals
from meshtrio.texts import whole

_log = logging.getLogger("meshtrio.mesh")

_LAST_OUTPUT = 0.02
"""Seconds the last output of a dead process has to be read in before its callers are told."""
_STATUS_LOST = (
    "ended, but its exit status is not known: other code of the mesh's program has waited for it, "
    "or ignores SIGCHLD"
)


@attrs.frozen
class _Failure:
    """Why the mesh ends a process that nobody asked it to; `stuck` ones get no time to drain."""

    reason: str
    cause: Cause | None = None

    @property
    def stuck(self) -> bool:
        return self.cause in (Cause.UNHEALTHY, Cause.TOO_LARGE)


class Life:
    """`run` owns the process and its entry in the registry; `changed` is called at each change."""

    def __init__(
        self,
        config: PluginConfig,
        number: int,
        place: int,
        socket: Path,
        mesh: Surroundings,
        ring: Ring,
        changed: Callable[[], None],
    ) -> None:
        self.config = config
        self.number = number
        self.socket = socket
        self._place = place
        self._listens_on = config.address(number, place)
        self.state = State.PENDING
        self.process: Process | None = None
        self.word = secrets.token_hex(8)
        """What its processes are known by, whatever becomes of their group."""
        self.identity: RunIdentity | None = None
        """What its processes are known by, once there may be something of it to clean up."""
        self.started = trio.current_time()
        self.ready_at: float | None = None
        """When it was first ready, None if it has not been yet."""
        self.ended: Exit | None = None
        """Set once it is over."""
        self.asked = False
        """Somebody wants it to stop."""
        self.forced = False
        """It was asked to stop and had to be killed."""
        self.health: Health | None = None
        """What the last health check found."""
        self.resident = 0
        """Bytes that its process group had in memory when that was last looked at."""
        self.share_of_age: float | None = None
        """Of its config's max_age, drawn by lot, after which it is renewed."""
        self.told_level = config.output.log_level
        """The log level that its process has been told: with its environment, to begin with."""
        self._notice = 0.0
        self._condemned = trio.Event()
        self._verdict = _Failure("")
        self._replaced = trio.Event()
        self._server: PluginServer | None = None
        self._mesh = mesh
        self.listener = Listener(config.output, ring, self._emit)
        self._changed = changed
        self._scope = trio.CancelScope()
        self._place_id = ""
        """Under which it is in the registry, or was last."""

    @property
    def condemned(self) -> bool:
        """It is about to be ended, for what it uses or because another has its address."""
        return self._condemned.is_set()

    @property
    def starting(self) -> bool:
        return self.state in (State.PENDING, State.STARTING)

    @property
    def ready(self) -> bool:
        return self.state is State.READY

    @property
    def uptime(self) -> float:
        return trio.current_time() - self.started

    @property
    def cut_calls_known(self) -> bool:
        """Whether its listener knows of all calls that were cut; one never ready has had none."""
        return self.ready_at is None or self.listener.reported_drain

    @property
    def since_ready(self) -> float | None:
        """Seconds since it was first ready, None if it has not been yet."""
        return None if self.ready_at is None else trio.current_time() - self.ready_at

    def stop(self, notice: float = 0.0) -> None:
        """Have it stopped: SIGTERM, its stop_timeout, SIGKILL. `run` returns when it is gone.

        `notice`: seconds from leaving the registry to SIGTERM, in which calls that were on their
        way arrive. meshtrio's plugins serve those anyway; other servers may turn them away.
        """
        self.asked = True
        self._notice = notice
        self._scope.cancel()

    def uses(self, resident: int) -> None:
        """Take note of what its process group has in memory; too much is its end."""
        self.resident = resident
        most = self.config.containment.memory
        if most is not None and resident > most:
            reason = f"used {resident:,} bytes of memory, and may use {most:,}"
            self._condemn(_Failure(reason, Cause.TOO_LARGE))

    def _condemn(self, failure: _Failure) -> None:
        self._verdict = failure
        self._condemned.set()

    def look_at_socket(self) -> None:
        """Have its health checked at once if another file has taken the place of its socket."""
        if self.ready and self._server is not None and self._server.is_replaced:
            self._replaced.set()

    async def run(self) -> None:
        """Start the process and see it through to its end; when cancelled, stop it first."""
        with self._scope:
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                await self._live()
            except (Exception, BaseExceptionGroup) as exc:
                # The process was stopped on the way here.
                failure = self._failure_by(exc)
                self.ended = Exit(reason=failure.reason, ended_for=failure.cause)
                with contextlib.suppress(Exception):  # It may be what has failed.
                    self._depart(str(self.ended), self.ended)
        if self.ended is None:
            self.ended = Exit(reason="was stopped before it was started")
        self._become(State.ENDED)

    def _failure_by(self, exc: BaseException) -> _Failure:
        """Take an error of the mesh itself for the end of this process, and of nothing else.

        Raises what is no error: cancellation, SystemExit and KeyboardInterrupt.
        """
        cancelled, error = without_cancelled(exc)
        if error is None or exit_in(error) is not None:
            raise exc
        _log.error("%s/%d: internal error", self.config.name, self.number, exc_info=error)
        if cancelled is not None:
            raise cancelled
        reason = f"was ended by an internal error of the mesh: {type(error).__name__}: {error}"
        return _Failure(whole(reason), Cause.INTERNAL)

    async def _live(self) -> None:
        self._become(State.STARTING)
        command: Sequence[str] = ()
        env: Mapping[str, str] = {}
        try:
            runtime_dir.make_room(self._mesh.mesh_socket.parent, self.config, self.socket)
            await self._check_port()
            await check_executable(self.config)
            uids = self._server_uids()
            self.identity = RunIdentity(self.word, ticks_now())
            cgroup = self._mesh.world.cgroup_for(self.word, self.config.containment.memory)
            command = command_of(self.config, cgroup)
            env = self._environment()
            process = await self._mesh.world.spawn(
                command, env=env, cwd=self.config.cwd, cgroup=cgroup
            )
        except (OSError, ValueError, KeyError, RuntimeError) as exc:
            # RuntimeError: no thread can be started any more.
            reason = await self._why_not_started(exc, command, env)
            cause = Cause.NOT_STARTED
            self.ended = Exit(
                reason=f"could not be started: {reason}",
                ended_for=cause,
                mesh_exhausted=is_exhaustion(exc),
            )
            self._depart(str(self.ended))
            self._emit(events.NotStarted, ended=self.ended)
            return
        self.process = process
        self._server = PluginServer(
            self._address,
            Owner(process.pid, self.word),
            uids,
            verify_process=self.config.verify_server,
        )
        self.identity = attrs.evolve(self.identity, session=process.pid)
        try:
            self._mesh.world.guard.watch(process.pid, process.pidfd)
            self._emit(events.Starting, pid=process.pid, life=self.word)
            async with self.listener.listening(process) as output_ended:
                await self._see_through(process, output_ended)
        finally:
            if self.ended is None:  # by an error before it was looked after
                with trio.CancelScope(shield=True):
                    await process.stop(0)
            # What still runs, or is held as a zombie, is watched until it is reaped.
            process.reap_later(partial(self._mesh.world.guard.forget, process.pid))
            if process.reaped:
                self.identity = attrs.evolve(self.identity, until=ticks_now())
            self.process = None

    async def _check_port(self) -> None:
        """Refuse to start a process at whose address another program answers. Raises OSError."""
        if self._listens_on is None or not self.config.verify_server:
            return
        if not await self._mesh.world.answers(self._listens_on):
            return
        reason = f"another program answers at {self._listens_on} already; stop it, or let the"
        raise OSError(errno.EADDRINUSE, f"{reason} plugin have another port (`listen`)")

    def _server_uids(self) -> frozenset[int] | None:
        """The users of which its server has to have one, None for any. Raises KeyError."""
        user = self.config.containment.user
        if user is not None:
            return frozenset({runtime_dir.ids_of(user, None)[0]})
        return frozenset({os.geteuid(), 0}) if self.config.verify_server else None

    async def _why_not_started(
        self, exc: Exception, command: Sequence[str], env: Mapping[str, str]
    ) -> str:
        reason = why_not_started(exc, self.config.argv()[0], command, env)
        if isinstance(exc, OSError) and exc.errno in EXPLAINED_BY_PROGRAM:
            problem = await self._mesh.world.why_not_executed(self.config)
            return f"{reason}: {problem}" if problem else reason
        return reason

    async def _see_through(self, process: Process, output_ended: trio.Event) -> None:
        attended = False
        try:
            try:
                failure = await self._attend(process)
            except (Exception, BaseExceptionGroup) as exc:
                failure = self._failure_by(exc)
            attended = True
        finally:
            if not attended:
                await self._stop(process, output_ended)
        if not process.ended:
            self._become(State.STOPPING)
            tracer = process.find_tracer() if failure.stuck else None
            if tracer is not None:
                failure = attrs.evolve(
                    failure, reason=f"{failure.reason}, while {tracer} traces it"
                )
            with trio.CancelScope(shield=True):
                await self._end(process, failure)
        with trio.move_on_after(_LAST_OUTPUT, shield=True):
            await output_ended.wait()
        reason = failure.reason
        if not reason and not self._place_id and process.returncode in NOT_EXECUTED:
            reason = await self._mesh.world.why_not_executed(self.config)
        self.ended = self._exit(process, reason, failure.cause)
        self._depart(str(self.ended), self.ended)
        self._emit(events.Exited, pid=process.pid, ended=self.ended)

    async def _attend(self, process: Process) -> _Failure:
        """Probe the process and wait for its end; gives why it has to be ended, "" if it did."""
        failure = _Failure("")

        async def probe() -> None:
            nonlocal failure
            failure = await self._probe(process)

        async def condemned() -> None:
            nonlocal failure
            await self._condemned.wait()
            failure = self._verdict

        await wait_any(probe, condemned, process.wait)
        return _Failure("") if process.ended else failure

    async def _probe(self, process: Process) -> _Failure:
        """Report readiness, then watch over it; gives what was found wrong."""
        assert self._server is not None
        vitals = Vitals(process.pid, self._address, self._mesh.world.observe)
        failure = await self._wait_ready(vitals, self._server.dial)
        if failure is not None:
            return failure
        # The process may have ended with its answer.
        await trio.lowlevel.checkpoint_if_cancelled()
        self._become_ready(process)
        check = partial(
            self._mesh.world.probe.check,
            self._address,
            tls=self.config.tls,
            connect=self._server.dial,
        )
        found = partial(self._take, process)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check_what_replaces, check, found)
            verdict = await liveness.watch(check, vitals, self.config.liveness, found)
            nursery.cancel_scope.cancel()
        return _Failure(verdict, Cause.UNHEALTHY)

    async def _check_what_replaces(
        self, check: Callable[[float], Awaitable[Health]], found: Callable[[Health], None]
    ) -> None:
        """Check its health whenever another file has taken the place of its socket."""
        while True:
            await self._replaced.wait()
            self._replaced = trio.Event()
            found(await check(self.config.liveness.timeout))

    async def _wait_ready(self, vitals: Vitals, connect: Connect) -> _Failure | None:
        """Wait for readiness; time in which the process waited for a CPU does not count."""
        probe, timeout = self._mesh.world.probe, self.config.ready_timeout
        within, extended = timeout, 0.0
        while True:
            try:
                await probe.wait_ready(self._address, within, self.config.tls, connect)
            except NotReadyError as exc:
                within = await vitals.ready_extension(timeout, extended)
                if not within:
                    reason = str(NotReadyError(timeout, exc.missing))
                    if extended:
                        reason += f"; it had {extended:.3g} s more, since it waited for a CPU"
                    return _Failure(reason, Cause.NOT_READY)
                extended += within
            else:
                return None

    async def _end(self, process: Process, failure: _Failure) -> None:
        """End a process that failed its mesh; one that is stuck says first where it is."""
        if failure.stuck:
            await process.dump()
        await process.stop(0 if failure.stuck else self.config.stop_timeout)

    async def _stop(self, process: Process, output_ended: trio.Event) -> None:
        """Stop it because the mesh was asked to, even though this task is cancelled already."""
        was_ready = self.ready
        if was_ready:
            self._depart("is being stopped")
        self._become(State.STOPPING)
        self._emit(events.Stopping, pid=process.pid)
        with trio.CancelScope(shield=True):
            with trio.move_on_after(self._notice if was_ready else 0):
                await process.wait()
            self.forced = await process.stop(self.config.stop_timeout)
            with trio.move_on_after(_LAST_OUTPUT):
                await output_ended.wait()
        self.ended = self._exit(process, "")
        # Callers whose calls broke with the process are to be told how it ended.
        self._depart(self._manner_of_stop(self.ended), self.ended)
        self._emit(
            events.Stopped,
            pid=process.pid,
            ended=self.ended,
            forced=self.forced,
            cut_calls=tuple(sorted(self.listener.cut_calls)),
            cut_calls_known=self.cut_calls_known,
        )

    def _manner_of_stop(self, ended: Exit) -> str:
        if self.forced and not ended.left:
            return f"did not stop within {self.config.stop_timeout:g} s and {ended}"
        return "was stopped" if ended.clean else f"was stopped; it {ended}"

    def _exit(self, process: Process, reason: str, cause: Cause | None = None) -> Exit:
        code = process.returncode
        self.listener.catch_up()
        if process.tracer is not None:
            self._emit(events.Traced, pid=process.pid, tracer=str(process.tracer))
        if code == -signal.SIGKILL and self._mesh.world.was_too_large(self.word):
            reason = reason or "used more memory than it may"
            cause = cause or Cause.TOO_LARGE
        if not process.ended:
            reason = f"{reason or 'was to stop'}; it cannot be killed, left running"
        elif code is None:
            reason = "; it ".join(filter(None, (reason, _STATUS_LOST)))
        return Exit(
            status=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            reason=reason,
            left=not process.ended,
            stderr_tail=self.listener.stderr_tail,
            ended_for=cause,
        )

    # -- what others learn -------------------------------------------------------------------

    @property
    def _address(self) -> str:
        return self._listens_on or f"unix:{self.socket}"

    def _take(self, process: Process, health: Health) -> None:
        """Follow what a health check found: NOT_SERVING leaves the registry, and comes back."""
        self.health = health
        if health.is_foreign:
            self._give_up_address(process, health.reason)
            return
        if not health.alive or health.busy:
            condition = health.condition
            self._emit(
                events.CheckFailed, pid=process.pid, reason=health.reason, condition=condition
            )
        if health.busy:
            return
        if health.serving and self.state is State.UNREADY:
            self._become_ready(process)
        elif health.alive and not health.serving and self.state is State.READY:
            self._become(State.UNREADY)
            self._depart(health.reason)
            self._emit(events.Unready, pid=process.pid, reason=health.reason)

    def _give_up_address(self, process: Process, reason: str) -> None:
        """Take no more calls, since another program would get them, and be stopped for it."""
        if self.condemned:
            return
        if self.state is State.READY:
            self._depart(reason)
        self._emit(events.Unready, pid=process.pid, reason=reason)
        self._condemn(_Failure(reason, Cause.WRONG_SERVER))

    def _become_ready(self, process: Process) -> None:
        self._place_id = self._new_place_id()
        endpoint = Endpoint(
            id=self._place_id,
            address=self._address,
            instance=self.number,
            pid=process.pid,
            tls=self.config.tls,
            owner=None if self._server is None else self._server.uid,
        )
        self._mesh.registry.register(self.config.service, endpoint)
        if self.ready_at is None:
            self.ready_at = trio.current_time()
        self._become(State.READY)
        self._emit(events.Ready, pid=process.pid, after=self.uptime)

    def _new_place_id(self) -> str:
        """Of an endpoint, or of none: an instance that was never ready has a departure, too."""
        return f"{self.config.name}-{self.number}-{self.word}-{self._mesh.next_serial()}"

    def _depart(self, reason: str, ended: Exit | None = None) -> None:
        """Leave the registry, or say there what became of who has left it, or never was in it."""
        self._place_id = self._place_id or self._new_place_id()
        pid = "" if self.process is None else f" (pid {self.process.pid})"
        departure = Departure(
            endpoint_id=self._place_id,
            reason=f"instance {self.number}{pid} {reason}",
            exit_status=ended.status if ended else None,
            signal=ended.signal if ended else None,
            stderr_tail=ended.stderr_tail if ended else (),
            life=self.word,
        )
        self._mesh.registry.deregister(self.config.service, departure)

    def _become(self, state: State) -> None:
        self.state = follow(self.state, state)
        self._changed()

    def _emit(self, kind: type[events.Event], **values: object) -> None:
        self._mesh.emit(kind(self.config.name, self.number, **values))

    def _environment(self) -> dict[str, str]:
        told = {
            contract.PLUGIN_SOCKET: str(self.socket),
            contract.PLUGIN_NAME: self.config.name,
            contract.PLUGIN_INSTANCE: str(self.number),
            contract.PLUGIN_STOP_TIMEOUT: f"{self.config.stop_timeout:g}",
            contract.MESH_SOCKET: str(self._mesh.mesh_socket),
            contract.MESH_LIFE: self.word,
            **self._mesh.telemetry(self.config, self.number, self._place),
        }
        if self.config.output.log_level is not None:
            told[contract.PLUGIN_LOG_LEVEL] = self.config.output.log_level.value
        told |= environment_of_lengths(self.config)
        if self._listens_on is not None:
            told[contract.PLUGIN_LISTEN] = self._listens_on
        if self.config.serve_tls is not None:
            told |= environment_of_tls(self.config.serve_tls)
        return environment_of(self.config, told)
