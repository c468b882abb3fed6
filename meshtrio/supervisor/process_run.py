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

from meshtrio import contract
from meshtrio.config import PluginConfig
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.exit_info import ExitInfo
from meshtrio.runtime_dir import directory
from meshtrio.supervisor import events, liveness
from meshtrio.supervisor.effects import RunContext
from meshtrio.supervisor.output_reader import OutputReader
from meshtrio.supervisor.policy.restart import Exit, ExitCause
from meshtrio.supervisor.policy.state import InstanceState, transition
from meshtrio.supervisor.probe import Connect, HealthCheckResult, NotReadyError
from meshtrio.supervisor.process.cleanup.leftover_killer import (
    RunIdentity,
    get_boot_ticks,
)
from meshtrio.supervisor.process.cleanup.process_tree import ProcessTree
from meshtrio.supervisor.process.output.output_lines import LineBuffer
from meshtrio.supervisor.process.spawn.command import (
    build_command,
    build_environment,
    check_executable,
    message_length_environment,
    tls_environment,
)
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.process.spawn.start_failures import (
    EXEC_FAILED_STATUSES,
    PROGRAM_ERRNOS,
    explain_start_failure,
    is_resource_exhaustion,
)
from meshtrio.supervisor.process_observer import ProcessObserver
from meshtrio.supervisor.server_identity import ServerVerifier
from meshtrio.util.concurrency import find_exit_exception, split_cancelled
from meshtrio.util.text import replace_surrogates

_log = logging.getLogger("meshtrio.mesh")

_OUTPUT_TIMEOUT = 0.02
"""Seconds the last output of a dead process has to be read in before its callers are told."""
_UNKNOWN_STATUS_REASON = (
    "ended, but its exit status is not known: other code of the mesh's program has waited for it, "
    "or ignores SIGCHLD"
)


@attrs.frozen
class _Failure:
    """Why the mesh ends a process that nobody asked it to; `stuck` ones get no time to drain."""

    reason: str
    cause: ExitCause | None = None

    @property
    def is_stuck(self) -> bool:
        return self.cause in (ExitCause.UNHEALTHY, ExitCause.MEMORY_LIMIT)


class ProcessRun:
    """`run` owns the process and its entry in the registry; `changed` is called at each change."""

    def __init__(
        self,
        config: PluginConfig,
        number: int,
        slot: int,
        socket: Path,
        context: RunContext,
        line_buffer: LineBuffer,
        on_change: Callable[[], None],
    ) -> None:
        self.config = config
        self.number = number
        self.socket = socket
        self._slot = slot
        self._listen_address = config.instance_address(number, slot)
        self.state = InstanceState.PENDING
        self.process: PluginProcess | None = None
        self.launch_id = secrets.token_hex(8)
        """What its processes are known by, whatever becomes of their group."""
        self.identity: RunIdentity | None = None
        """What its processes are known by, once there may be something of it to clean up."""
        self.started_at = trio.current_time()
        self.ready_at: float | None = None
        """When it was first ready, None if it has not been yet."""
        self.exit: Exit | None = None
        """Set once it is over."""
        self.is_stop_requested = False
        """Somebody wants it to stop."""
        self.was_killed = False
        """It was asked to stop and had to be killed."""
        self.last_check: HealthCheckResult | None = None
        """What the last health check found."""
        self.rss = 0
        """Bytes that its process group had in memory when that was last looked at."""
        self.max_age_factor: float | None = None
        """Of its config's max_age, drawn by lot, after which it is renewed."""
        self.applied_log_level = config.output.log_level
        """The log level that its process has been told: with its environment, to begin with."""
        self._drain_delay = 0.0
        self._kill_requested = trio.Event()
        self._kill_failure = _Failure("")
        self._socket_replaced = trio.Event()
        self._server_verifier: ServerVerifier | None = None
        self._context = context
        self.output_reader = OutputReader(config.output, line_buffer, self._emit)
        self._on_change = on_change
        self._cancel_scope = trio.CancelScope()
        self._endpoint_id = ""
        """Under which it is in the registry, or was last."""

    @property
    def is_kill_requested(self) -> bool:
        """It is about to be ended, for what it uses or because another has its address."""
        return self._kill_requested.is_set()

    @property
    def is_starting(self) -> bool:
        return self.state in (InstanceState.PENDING, InstanceState.STARTING)

    @property
    def is_ready(self) -> bool:
        return self.state is InstanceState.READY

    @property
    def uptime(self) -> float:
        return trio.current_time() - self.started_at

    @property
    def cut_calls_known(self) -> bool:
        """Whether its listener knows of all calls that were cut; one never ready has had none."""
        return self.ready_at is None or self.output_reader.has_drain_report

    @property
    def since_ready(self) -> float | None:
        """Seconds since it was first ready, None if it has not been yet."""
        return None if self.ready_at is None else trio.current_time() - self.ready_at

    def stop(self, drain_delay: float = 0.0) -> None:
        """Have it stopped: SIGTERM, its stop_timeout, SIGKILL. `run` returns when it is gone.

        `notice`: seconds from leaving the registry to SIGTERM, in which calls that were on their
        way arrive. meshtrio's plugins serve those anyway; other servers may turn them away.
        """
        self.is_stop_requested = True
        self._drain_delay = drain_delay
        self._cancel_scope.cancel()

    def record_rss(self, rss: int) -> None:
        """Take note of what its process group has in memory; too much is its end."""
        self.rss = rss
        most = self.config.containment.memory
        if most is not None and rss > most:
            reason = f"used {rss:,} bytes of memory, and may use {most:,}"
            self._request_kill(_Failure(reason, ExitCause.MEMORY_LIMIT))

    def _request_kill(self, failure: _Failure) -> None:
        self._kill_failure = failure
        self._kill_requested.set()

    def check_socket(self) -> None:
        """Have its health checked at once if another file has taken the place of its socket."""
        if (
            self.is_ready
            and self._server_verifier is not None
            and self._server_verifier.is_socket_replaced
        ):
            self._socket_replaced.set()

    async def run(self) -> None:
        """Start the process and see it through to its end; when cancelled, stop it first."""
        with self._cancel_scope:
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                await self._launch()
            except (Exception, BaseExceptionGroup) as exc:
                # The process was stopped on the way here.
                failure = self._internal_failure(exc)
                self.exit = Exit(reason=failure.reason, explicit_cause=failure.cause)
                with contextlib.suppress(Exception):  # It may be what has failed.
                    self._deregister(str(self.exit), self.exit)
        if self.exit is None:
            self.exit = Exit(reason="was stopped before it was started")
        self._set_state(InstanceState.ENDED)

    def _internal_failure(self, exc: BaseException) -> _Failure:
        """Take an error of the mesh itself for the end of this process, and of nothing else.

        Raises what is no error: cancellation, SystemExit and KeyboardInterrupt.
        """
        cancelled, error = split_cancelled(exc)
        if error is None or find_exit_exception(error) is not None:
            raise exc
        _log.error("%s/%d: internal error", self.config.name, self.number, exc_info=error)
        if cancelled is not None:
            raise cancelled
        reason = f"was ended by an internal error of the mesh: {type(error).__name__}: {error}"
        return _Failure(replace_surrogates(reason), ExitCause.INTERNAL_ERROR)

    async def _launch(self) -> None:
        self._set_state(InstanceState.STARTING)
        command: Sequence[str] = ()
        env: Mapping[str, str] = {}
        try:
            directory.prepare_plugin_socket(
                self._context.mesh_socket.parent, self.config, self.socket
            )
            await self._check_port()
            await check_executable(self.config)
            uids = self._allowed_server_uids()
            self.identity = RunIdentity(self.launch_id, get_boot_ticks())
            cgroup = self._context.effects.create_cgroup(
                self.launch_id, self.config.containment.memory
            )
            command = build_command(self.config, cgroup)
            env = self._build_environment()
            process = await self._context.effects.spawn(
                command, env=env, cwd=self.config.cwd, cgroup=cgroup
            )
        except (OSError, ValueError, KeyError, RuntimeError) as exc:
            # RuntimeError: no thread can be started any more.
            reason = await self._explain_start_failure(exc, command, env)
            cause = ExitCause.NOT_STARTED
            self.exit = Exit(
                reason=f"could not be started: {reason}",
                explicit_cause=cause,
                is_resource_exhaustion=is_resource_exhaustion(exc),
            )
            self._deregister(str(self.exit))
            self._emit(events.NotStarted, exit=self.exit)
            return
        self.process = process
        self._server_verifier = ServerVerifier(
            self._address,
            ProcessTree(process.pid, self.launch_id),
            uids,
            verify_process=self.config.verify_server,
        )
        self.identity = attrs.evolve(self.identity, session_id=process.pid)
        try:
            self._context.effects.guard.watch(process.pid, process.pidfd)
            self._emit(events.Starting, pid=process.pid, launch_id=self.launch_id)
            async with self.output_reader.reading(process) as output_ended:
                await self._supervise_to_end(process, output_ended)
        finally:
            if self.exit is None:  # by an error before it was looked after
                with trio.CancelScope(shield=True):
                    await process.stop(0)
            # What still runs, or is held as a zombie, is watched until it is reaped.
            process.reap_later(partial(self._context.effects.guard.unwatch, process.pid))
            if process.is_reaped:
                self.identity = attrs.evolve(self.identity, session_end_ticks=get_boot_ticks())
            self.process = None

    async def _check_port(self) -> None:
        """Refuse to start a process at whose address another program answers. Raises OSError."""
        if self._listen_address is None or not self.config.verify_server:
            return
        if not await self._context.effects.is_address_in_use(self._listen_address):
            return
        reason = f"another program answers at {self._listen_address} already; stop it, or let the"
        raise OSError(errno.EADDRINUSE, f"{reason} plugin have another port (`listen`)")

    def _allowed_server_uids(self) -> frozenset[int] | None:
        """The users of which its server has to have one, None for any. Raises KeyError."""
        user = self.config.containment.user
        if user is not None:
            return frozenset({directory.resolve_ids(user, None)[0]})
        return frozenset({os.geteuid(), 0}) if self.config.verify_server else None

    async def _explain_start_failure(
        self, exc: Exception, command: Sequence[str], env: Mapping[str, str]
    ) -> str:
        reason = explain_start_failure(exc, self.config.argv()[0], command, env)
        if isinstance(exc, OSError) and exc.errno in PROGRAM_ERRNOS:
            problem = await self._context.effects.diagnose_program(self.config)
            return f"{reason}: {problem}" if problem else reason
        return reason

    async def _supervise_to_end(self, process: PluginProcess, output_ended: trio.Event) -> None:
        attended = False
        try:
            try:
                failure = await self._supervise(process)
            except (Exception, BaseExceptionGroup) as exc:
                failure = self._internal_failure(exc)
            attended = True
        finally:
            if not attended:
                await self._stop(process, output_ended)
        if not process.has_exited:
            self._set_state(InstanceState.STOPPING)
            tracer = process.find_tracer() if failure.is_stuck else None
            if tracer is not None:
                failure = attrs.evolve(
                    failure, reason=f"{failure.reason}, while {tracer} traces it"
                )
            with trio.CancelScope(shield=True):
                await self._terminate(process, failure)
        with trio.move_on_after(_OUTPUT_TIMEOUT, shield=True):
            await output_ended.wait()
        reason = failure.reason
        if not reason and not self._endpoint_id and process.returncode in EXEC_FAILED_STATUSES:
            reason = await self._context.effects.diagnose_program(self.config)
        self.exit = self._make_exit(process, reason, failure.cause)
        self._deregister(str(self.exit), self.exit)
        self._emit(events.Exited, pid=process.pid, exit=self.exit)

    async def _supervise(self, process: PluginProcess) -> _Failure:
        """Probe the process and wait for its end; gives why it has to be ended, "" if it did."""
        failure = _Failure("")

        async def probe() -> None:
            nonlocal failure
            failure = await self._run_probes(process)
            nursery.cancel_scope.cancel()

        async def condemned() -> None:
            nonlocal failure
            await self._kill_requested.wait()
            failure = self._kill_failure
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe)
            nursery.start_soon(condemned)
            await process.wait()
            nursery.cancel_scope.cancel()
        return _Failure("") if process.has_exited else failure

    async def _run_probes(self, process: PluginProcess) -> _Failure:
        """Report readiness, then watch over it; gives what was found wrong."""
        assert self._server_verifier is not None
        vitals = ProcessObserver(process.pid, self._address, self._context.effects.observe)
        failure = await self._wait_ready(vitals, self._server_verifier.dial)
        if failure is not None:
            return failure
        # The process may have ended with its answer.
        await trio.lowlevel.checkpoint_if_cancelled()
        self._mark_ready(process)
        check = partial(
            self._context.effects.probe.check,
            self._address,
            tls=self.config.tls,
            connect=self._server_verifier.dial,
        )
        found = partial(self._on_check_result, process)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._check_replaced_socket, check, found)
            verdict = await liveness.run_liveness_checks(check, vitals, self.config.liveness, found)
            nursery.cancel_scope.cancel()
        return _Failure(verdict, ExitCause.UNHEALTHY)

    async def _check_replaced_socket(
        self,
        check: Callable[[float], Awaitable[HealthCheckResult]],
        on_result: Callable[[HealthCheckResult], None],
    ) -> None:
        """Check its health whenever another file has taken the place of its socket."""
        while True:
            await self._socket_replaced.wait()
            self._socket_replaced = trio.Event()
            on_result(await check(self.config.liveness.timeout))

    async def _wait_ready(self, observer: ProcessObserver, connect: Connect) -> _Failure | None:
        """Wait for readiness; time in which the process waited for a CPU does not count."""
        probe, timeout = self._context.effects.probe, self.config.ready_timeout
        within, extended = timeout, 0.0
        while True:
            try:
                await probe.wait_ready(self._address, within, self.config.tls, connect)
            except NotReadyError as exc:
                within = await observer.ready_timeout_extension(timeout, extended)
                if not within:
                    reason = str(NotReadyError(timeout, exc.missing))
                    if extended:
                        reason += f"; it had {extended:.3g} s more, since it waited for a CPU"
                    return _Failure(reason, ExitCause.NOT_READY)
                extended += within
            else:
                return None

    async def _terminate(self, process: PluginProcess, failure: _Failure) -> None:
        """End a process that failed its mesh; one that is stuck says first where it is."""
        if failure.is_stuck:
            await process.dump_stacks()
        await process.stop(0 if failure.is_stuck else self.config.stop_timeout)

    async def _stop(self, process: PluginProcess, output_ended: trio.Event) -> None:
        """Stop it because the mesh was asked to, even though this task is cancelled already."""
        was_ready = self.is_ready
        if was_ready:
            self._deregister("is being stopped")
        self._set_state(InstanceState.STOPPING)
        self._emit(events.Stopping, pid=process.pid)
        with trio.CancelScope(shield=True):
            with trio.move_on_after(self._drain_delay if was_ready else 0):
                await process.wait()
            self.was_killed = await process.stop(self.config.stop_timeout)
            with trio.move_on_after(_OUTPUT_TIMEOUT):
                await output_ended.wait()
        self.exit = self._make_exit(process, "")
        # Callers whose calls broke with the process are to be told how it ended.
        self._deregister(self._describe_stop(self.exit), self.exit)
        self._emit(
            events.Stopped,
            pid=process.pid,
            exit=self.exit,
            was_killed=self.was_killed,
            cut_calls=tuple(sorted(self.output_reader.cut_calls)),
            cut_calls_known=self.cut_calls_known,
        )

    def _describe_stop(self, exit: Exit) -> str:
        if self.was_killed and not exit.is_unkillable:
            return f"did not stop within {self.config.stop_timeout:g} s and {exit}"
        return "was stopped" if exit.is_clean else f"was stopped; it {exit}"

    def _make_exit(
        self, process: PluginProcess, reason: str, cause: ExitCause | None = None
    ) -> Exit:
        code = process.returncode
        self.output_reader.read_remaining()
        if process.tracer is not None:
            self._emit(events.Traced, pid=process.pid, tracer=str(process.tracer))
        if code == -signal.SIGKILL and self._context.effects.was_oom_killed(self.launch_id):
            reason = reason or "used more memory than it may"
            cause = cause or ExitCause.MEMORY_LIMIT
        if not process.has_exited:
            reason = f"{reason or 'was to stop'}; it cannot be killed, left running"
        elif code is None:
            reason = "; it ".join(filter(None, (reason, _UNKNOWN_STATUS_REASON)))
        return Exit(
            status=code if code is not None and code >= 0 else None,
            signal=-code if code is not None and code < 0 else None,
            reason=reason,
            is_unkillable=not process.has_exited,
            stderr_tail=self.output_reader.stderr_tail,
            explicit_cause=cause,
        )

    # -- what others learn -------------------------------------------------------------------

    @property
    def _address(self) -> str:
        return self._listen_address or f"unix:{self.socket}"

    def _on_check_result(self, process: PluginProcess, result: HealthCheckResult) -> None:
        """Follow what a health check found: NOT_SERVING leaves the registry, and comes back."""
        self.last_check = result
        if result.is_wrong_server:
            self._handle_wrong_server(process, result.reason)
            return
        if not result.is_alive or result.is_busy:
            condition = result.condition
            self._emit(
                events.CheckFailed, pid=process.pid, reason=result.reason, condition=condition
            )
        if result.is_busy:
            return
        if result.is_serving and self.state is InstanceState.UNREADY:
            self._mark_ready(process)
        elif result.is_alive and not result.is_serving and self.state is InstanceState.READY:
            self._set_state(InstanceState.UNREADY)
            self._deregister(result.reason)
            self._emit(events.Unready, pid=process.pid, reason=result.reason)

    def _handle_wrong_server(self, process: PluginProcess, reason: str) -> None:
        """Take no more calls, since another program would get them, and be stopped for it."""
        if self.is_kill_requested:
            return
        if self.state is InstanceState.READY:
            self._deregister(reason)
        self._emit(events.Unready, pid=process.pid, reason=reason)
        self._request_kill(_Failure(reason, ExitCause.WRONG_SERVER))

    def _mark_ready(self, process: PluginProcess) -> None:
        self._endpoint_id = self._new_endpoint_id()
        endpoint = Endpoint(
            id=self._endpoint_id,
            address=self._address,
            instance=self.number,
            pid=process.pid,
            tls=self.config.tls,
            server_uid=None if self._server_verifier is None else self._server_verifier.uid,
        )
        self._context.registry.register(self.config.service, endpoint)
        if self.ready_at is None:
            self.ready_at = trio.current_time()
        self._set_state(InstanceState.READY)
        self._emit(events.Ready, pid=process.pid, startup_time=self.uptime)

    def _new_endpoint_id(self) -> str:
        """Of an endpoint, or of none: an instance that was never ready has a departure, too."""
        return f"{self.config.name}-{self.number}-{self.launch_id}-{self._context.next_serial()}"

    def _deregister(self, reason: str, exit: Exit | None = None) -> None:
        """Leave the registry, or say there what became of who has left it, or never was in it."""
        self._endpoint_id = self._endpoint_id or self._new_endpoint_id()
        pid = "" if self.process is None else f" (pid {self.process.pid})"
        departure = ExitInfo(
            endpoint_id=self._endpoint_id,
            reason=f"instance {self.number}{pid} {reason}",
            exit_status=exit.status if exit else None,
            signal=exit.signal if exit else None,
            stderr_tail=exit.stderr_tail if exit else (),
            launch_id=self.launch_id,
        )
        self._context.registry.deregister(self.config.service, departure)

    def _set_state(self, state: InstanceState) -> None:
        self.state = transition(self.state, state)
        self._on_change()

    def _emit(self, kind: type[events.LifecycleEvent], **values: object) -> None:
        self._context.emit(kind(self.config.name, self.number, **values))

    def _build_environment(self) -> dict[str, str]:
        told = {
            contract.PLUGIN_SOCKET: str(self.socket),
            contract.PLUGIN_NAME: self.config.name,
            contract.PLUGIN_INSTANCE: str(self.number),
            contract.PLUGIN_STOP_TIMEOUT: f"{self.config.stop_timeout:g}",
            contract.MESH_SOCKET: str(self._context.mesh_socket),
            contract.MESH_LAUNCH_ID: self.launch_id,
            **self._context.telemetry_environment(self.config, self.number, self._slot),
        }
        if self.config.output.log_level is not None:
            told[contract.PLUGIN_LOG_LEVEL] = self.config.output.log_level.value
        told |= message_length_environment(self.config)
        if self._listen_address is not None:
            told[contract.PLUGIN_LISTEN] = self._listen_address
        if self.config.serve_tls is not None:
            told |= tls_environment(self.config.serve_tls)
        return build_environment(self.config, told)
