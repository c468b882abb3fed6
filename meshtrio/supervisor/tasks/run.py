"""One process of a task, from its start to when it and its group are gone."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio
from trio_util import wait_any

from meshtrio.config import TaskConfig
from meshtrio.supervisor import events
from meshtrio.supervisor.effects import Effects
from meshtrio.supervisor.policy.restart import Exit, ExitCause
from meshtrio.supervisor.process.cleanup.leftover_killer import RunIdentity, get_boot_ticks
from meshtrio.supervisor.process.output.output_lines import LineBuffer
from meshtrio.supervisor.process.spawn.plugin_process import PluginProcess
from meshtrio.supervisor.process.spawn.start_failures import EXEC_FAILED_STATUSES
from meshtrio.supervisor.runs.environment import task_environment
from meshtrio.supervisor.runs.launch import (
    LAUNCH_ERRORS,
    build_command,
    check_hashes,
    make_launch_exit,
)
from meshtrio.supervisor.runs.output_reader import OutputReader
from meshtrio.supervisor.runs.process_end import handle_internal_error, make_process_exit
from meshtrio.util.users import look_up_user

_OUTPUT_TIMEOUT = 0.02
"""Seconds in which the last output of a dead process is read before its exit is reported."""


class TaskRun:
    """Owns one process of a task while `run` runs."""

    def __init__(
        self,
        config: TaskConfig,
        *,
        mesh_socket: Path,
        effects: Effects,
        line_buffer: LineBuffer,
        emit: Callable[..., None],
    ) -> None:
        """Create a run; `run` starts its process. `emit(kind, **values)` is called for events."""
        self.config = config
        self.launch_id = secrets.token_hex(8)
        self.process: PluginProcess | None = None
        self.identity: RunIdentity | None = None
        """What its processes are found by; None before there can be any."""
        self.started_at = trio.current_time()
        self.ended_at: float | None = None
        self.exit: Exit | None = None
        """How it ended; set before `run` returns."""
        self.is_stop_requested = False
        """Whether `stop` was called."""
        self.was_killed = False
        """Whether it did not stop in time on request, and was killed."""
        self.output_reader = OutputReader(config.output, line_buffer, emit)
        self._mesh_socket = mesh_socket
        self._effects = effects
        self._emit = emit
        self._command: Sequence[str] = ()
        self._env: Mapping[str, str] = {}
        self._memory_failure: Exit | None = None
        self._kill_requested = trio.Event()
        self._cancel_scope = trio.CancelScope()

    @property
    def uptime(self) -> float:
        """Seconds since it was started, or for which it ran."""
        return (self.ended_at or trio.current_time()) - self.started_at

    def stop(self) -> None:
        """Stop it: SIGTERM, then SIGKILL after `stop_timeout`. `run` returns when it is gone."""
        self.is_stop_requested = True
        self._cancel_scope.cancel()

    def record_rss(self, rss: int) -> None:
        """Record the resident memory of its process group; above the limit it is ended."""
        limit = self.config.containment.memory
        if limit is not None and rss > limit:
            reason = f"used {rss:,} bytes of memory, and may use {limit:,}"
            self._memory_failure = Exit(reason=reason, explicit_cause=ExitCause.MEMORY_LIMIT)
            self._kill_requested.set()

    # -- life cycle --------------------------------------------------------------------------

    async def run(self) -> None:
        """Start the process and wait for its end.

        Cancellation: Stops the process first, which takes up to its `stop_timeout`.
        """
        with self._cancel_scope:
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                await self._launch()
            except (Exception, BaseExceptionGroup) as exc:
                self.exit = handle_internal_error(self.config.name, exc)
        if self.exit is None:
            self.exit = Exit(reason="was stopped before it was started")
        self.ended_at = trio.current_time()

    async def _launch(self) -> None:
        try:
            await check_hashes(self.config)
            self.identity = RunIdentity(self.launch_id, get_boot_ticks())
            process = await self._spawn()
        except LAUNCH_ERRORS as exc:
            self.exit = await make_launch_exit(
                exc, self.config, self._command, self._env, self._effects
            )
            self._emit(events.NotStarted, exit=self.exit)
            return
        self.process = process
        self.identity = attrs.evolve(self.identity, session_id=process.pid)
        guard = self._effects.guard
        try:
            guard.watch(process.pid, process.pidfd)
            self._emit(events.Starting, pid=process.pid, launch_id=self.launch_id)
            async with self.output_reader.reading(process) as output_ended:
                await self._supervise_to_end(process, output_ended)
        finally:
            if self.exit is None:  # An error came before it was supervised.
                with trio.CancelScope(shield=True):
                    await process.stop(0)
            process.reap_later(partial(guard.unwatch, process.pid))
            if process.is_reaped:
                self.identity = attrs.evolve(self.identity, session_end_ticks=get_boot_ticks())
            self.process = None

    async def _spawn(self) -> PluginProcess:
        config, effects, containment = self.config, self._effects, self.config.containment
        cgroups, user = effects.cgroups, containment.user
        cgroup = None if cgroups is None else cgroups.create(self.launch_id, containment.memory)
        self._command = build_command(config, cgroup)
        entry = None if user is None else look_up_user(user)
        self._env = task_environment(
            config, self._mesh_socket, self.launch_id, inherited=os.environ, user=entry
        )
        return await effects.spawn(self._command, env=self._env, cwd=config.cwd, cgroup=cgroup)

    async def _supervise_to_end(self, process: PluginProcess, output_ended: trio.Event) -> None:
        try:
            try:
                failure = await self._supervise(process)
            except (Exception, BaseExceptionGroup) as exc:
                failure = handle_internal_error(self.config.name, exc)
        except BaseException:
            await self._stop(process, output_ended)
            raise
        if not process.has_exited:
            with trio.CancelScope(shield=True):
                is_over_memory = failure is self._memory_failure
                await process.stop(0 if is_over_memory else self.config.stop_timeout)
        await self._read_output(output_ended)
        if not failure.reason and process.returncode in EXEC_FAILED_STATUSES:
            problem = await self._effects.diagnose_program(self.config)
            failure = attrs.evolve(failure, reason=problem)
        self._finish(process, failure, events.Exited)

    async def _supervise(self, process: PluginProcess) -> Exit:
        """Wait for the end of the process; return why it has to be ended, if it has to."""
        timeout = self.config.timeout
        with trio.move_on_after(timeout if timeout is not None else float("inf")):
            await wait_any(process.wait, self._kill_requested.wait)
        if process.has_exited:
            return Exit()
        if self._memory_failure is not None:
            return self._memory_failure
        return Exit(reason=f"ran longer than its timeout of {timeout:g} s")

    async def _stop(self, process: PluginProcess, output_ended: trio.Event) -> None:
        """Stop the process, even though this task is cancelled already."""
        self._emit(events.Stopping, pid=process.pid)
        with trio.CancelScope(shield=True):
            self.was_killed = await process.stop(self.config.stop_timeout)
            await self._read_output(output_ended)
        self._finish(process, Exit(), events.Stopped, was_killed=self.was_killed)

    async def _read_output(self, output_ended: trio.Event) -> None:
        with trio.move_on_after(_OUTPUT_TIMEOUT, shield=True):
            await output_ended.wait()

    def _finish(
        self, process: PluginProcess, failure: Exit, kind: type[events.ProcessEvent], **values: Any
    ) -> None:
        reader = self.output_reader
        self.exit = make_process_exit(process, failure, reader, self.launch_id, self._effects)
        if process.tracer is not None:
            self._emit(events.Traced, pid=process.pid, tracer=str(process.tracer))
        self._emit(kind, pid=process.pid, exit=self.exit, **values)
