"""Is a plugin ready, is it alive: its socket accepts, and its health service says SERVING.

Source: grpc/doc/health-checking.md. A server without a health service is ready when it answers.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import attrs
import purerpc
import trio

from meshtrio.errors import RESOURCE_EXHAUSTED_ERRNOS, CallRefusedError, ConnectionLostError
from meshtrio.messages import health
from meshtrio.rpc.one_shot_call import (
    ClosedWithoutResponseError,
    OneShotCall,
    PeerOverloadedError,
)
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor
from meshtrio.supervisor.policy.diagnosis import Condition, Symptom
from meshtrio.supervisor.process.proc.activity import read_thread_cpu_wait
from meshtrio.transport.dial import dial
from meshtrio.transport.transport import Transport
from meshtrio.transport.unix_connect import WrongServerError
from meshtrio.util.tls_config import ClientTlsConfig

_HEALTH_CHECK = OneShotCall(
    method_from_descriptor(health.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]),
    health.HealthCheckRequest(),
)
_MIN_POLL_INTERVAL = 0.005
_MAX_POLL_INTERVAL = 0.1
_STALL_THRESHOLD = 0.5
"""Seconds past a deadline that tell of a mesh which did not run."""
_MAX_CPU_WAIT_FRACTION = 0.5
"""Share of a check's time for which the mesh may wait for a CPU, if the check is to count."""


class NotReadyError(Exception):
    """A plugin was not ready in time; `missing` says what it was still missing."""

    def __init__(self, timeout: float, missing: str) -> None:
        super().__init__(f"was not ready within {timeout:g} s: {missing}")
        self.missing = missing


class _ProbeResourceError(Exception):
    """The mesh is out of descriptors, memory or threads, which says nothing about the plugin."""


@attrs.frozen
class HealthCheckResult:
    """What one question found."""

    is_alive: bool
    """It answered, whatever it said."""
    is_serving: bool
    reason: str = ""
    """What was missing to SERVING, as a phrase: "its health check says NOT_SERVING"."""
    latency: float = 0.0
    """Seconds to the answer."""
    is_wrong_server: bool = False
    """Another program than the plugin answers at its address; see `plugin_server`."""
    is_busy: bool = False
    """It rejected the question because it has too many connections or calls, which says nothing
    about whether it is SERVING."""
    symptom: Symptom | None = None
    """How it failed, if it is not alive."""
    condition: Condition | None = None
    """What it was found to do instead, if it is not alive."""


_SERVING = HealthCheckResult(is_alive=True, is_serving=True)

Connect = Callable[[str, ClientTlsConfig | None], Awaitable[Transport]]
"""Connects to a server as `dial` does. Raises WrongServerError for one that is not the plugin's."""


class Probe(Protocol):
    """Asks after the health of plugins; a fake in tests."""

    async def wait_ready(
        self,
        address: str,
        timeout_seconds: float,
        tls: ClientTlsConfig | None = None,
        connect: Connect = dial,
    ) -> None: ...

    async def check(
        self,
        address: str,
        timeout_seconds: float,
        tls: ClientTlsConfig | None = None,
        connect: Connect = dial,
    ) -> HealthCheckResult: ...


class SocketProbe:
    """Asks over the plugin's own socket, with a connection for each question."""

    async def wait_ready(
        self,
        address: str,
        timeout_seconds: float,
        tls: ClientTlsConfig | None = None,
        connect: Connect = dial,
    ) -> None:
        """Wait until the server at an address is ready; cancellable.

        Raises NotReadyError after `within` seconds.
        """
        while True:
            progress = _Progress()
            with trio.move_on_after(timeout_seconds) as scope:
                await _poll_until_serving(partial(connect, address, tls), progress)
                return
            if not _was_stalled(scope):
                raise NotReadyError(timeout_seconds, str(progress))

    async def check(
        self,
        address: str,
        timeout_seconds: float,
        tls: ClientTlsConfig | None = None,
        connect: Connect = dial,
    ) -> HealthCheckResult:
        """Ask once, for at most `within` seconds of a mesh that is able to ask."""
        while True:
            asked, waited = trio.current_time(), read_thread_cpu_wait()
            progress = _Progress()
            try:
                with trio.move_on_after(timeout_seconds) as scope:
                    found = await _check_once(partial(connect, address, tls), progress)
                    return attrs.evolve(found, latency=trio.current_time() - asked)
            except _ProbeResourceError:
                # Outside the scope, whose end would be taken for the plugin's silence.
                await trio.sleep_until(scope.deadline)
                continue
            if not _was_stalled(scope):
                latency = trio.current_time() - asked
                return _make_timeout_result(
                    progress, timeout_seconds, latency, read_thread_cpu_wait() - waited
                )


def _make_timeout_result(
    progress: _Progress, timeout: float, latency: float, run_delay: float
) -> HealthCheckResult:
    """No answer came in time; the mesh itself waited for a CPU for some of the time."""
    reason, condition = f"{progress.step} within {timeout:g} s", None
    if run_delay > _MAX_CPU_WAIT_FRACTION * timeout:
        condition = Condition.MESH_OVERLOADED
        reason += f"; but the mesh waited for a CPU {100 * run_delay / timeout:.0f} % of the time"
    return HealthCheckResult(
        False, False, reason, latency, symptom=progress.symptom, condition=condition
    )


def _was_stalled(scope: trio.CancelScope) -> bool:
    """Whether this process itself was stopped, or far too busy, when a deadline of its passed:
    the answer may be there, and nobody has looked."""
    return trio.current_time() - scope.deadline > _STALL_THRESHOLD


@attrs.define
class _Progress:
    """How far asking has come, which is told when the time is over."""

    last_problem: str = ""
    """What the last question found to be missing."""
    step: str = "it did not accept a connection"
    """What the question under way waits for."""
    step_started_at: float = math.inf
    """When that was begun."""
    symptom: Symptom = Symptom.NO_ANSWER

    def start_check(self) -> None:
        self.step, self.step_started_at = "it did not accept a connection", trio.current_time()

    def finish_check(self, problem: str) -> None:
        self.last_problem, self.step_started_at = problem, math.inf

    def __str__(self) -> str:
        # A question that was only just asked says less than the answer to the one before.
        had_time = trio.current_time() - self.step_started_at > _MAX_POLL_INTERVAL
        return self.step if had_time or not self.last_problem else self.last_problem


async def _poll_until_serving(
    connect: Callable[[], Awaitable[Transport]], progress: _Progress
) -> None:
    pause = _MIN_POLL_INTERVAL
    while True:
        try:
            progress.start_check()
            found = await _check_once(connect, progress)
        except _ProbeResourceError as exc:
            progress.finish_check(f"the mesh cannot ask it ({exc})")
        else:
            if found.is_serving:
                return
            progress.finish_check(found.reason)
        await trio.sleep(pause)
        pause = min(pause * 1.1, _MAX_POLL_INTERVAL)


async def _check_once(
    connect: Callable[[], Awaitable[Transport]], progress: _Progress
) -> HealthCheckResult:
    """Ask once; `progress` tells how far it came even when this is cancelled.

    Raises _CannotAskError where it is the mesh that lacks something.
    """
    try:
        transport = await _connect(connect, progress)
    except FileNotFoundError:
        return _make_failed_result("it has not bound its socket", Symptom.UNREACHABLE)
    except WrongServerError as exc:
        return HealthCheckResult(
            is_alive=False, is_serving=False, reason=exc.reason, is_wrong_server=True
        )
    except OSError as exc:
        if exc.errno in RESOURCE_EXHAUSTED_ERRNOS:
            raise _ProbeResourceError(exc.strerror) from None
        found = _make_failed_result(
            f"its socket refuses connections ({exc.strerror})", Symptom.UNREACHABLE
        )
        if exc.errno == errno.EADDRNOTAVAIL:
            # No local port is left (ip_local_port_range); a wrong address is reported so as well.
            return attrs.evolve(found, condition=Condition.MESH_OVERLOADED)
        return found
    except RuntimeError as exc:
        # No thread can be started, to look up a host or to read TLS files.
        raise _ProbeResourceError(str(exc)) from None
    progress.step = "it accepted a connection but did not answer the health check"
    progress.symptom = Symptom.NO_ANSWER
    return await _query_health(transport)


async def _query_health(transport: Transport) -> HealthCheckResult:
    try:
        reply = await _HEALTH_CHECK.call(transport)
    except purerpc.UnimplementedError:
        return _SERVING
    except (purerpc.ResourceExhaustedError, CallRefusedError) as exc:
        return _make_busy_result(f"its health check was rejected with {exc.status}")
    except PeerOverloadedError as exc:
        return _make_busy_result(f"it rejected the connection: {exc.status.status_message}")
    except ConnectionLostError as exc:
        text = f"it accepted a connection and then: {exc.status.status_message}"
        closed = isinstance(exc, ClosedWithoutResponseError)
        return _make_failed_result(text, Symptom.CLOSED if closed else Symptom.WRONG_ANSWER)
    except purerpc.RpcFailedError as exc:
        return _make_failed_result(
            f"its health check failed with {exc.status}", Symptom.WRONG_ANSWER
        )
    if reply.status == health.HealthCheckResponse.SERVING:
        return _SERVING
    return HealthCheckResult(
        is_alive=True, is_serving=False, reason="its health check says NOT_SERVING"
    )


async def _connect(connect: Callable[[], Awaitable[Transport]], progress: _Progress) -> Transport:
    """Connect. On a Unix socket a full backlog is an error (EAGAIN) that this waits out."""
    while True:
        try:
            return await connect()
        except BlockingIOError:
            progress.step = "its backlog was full: it accepted no connection"
            progress.symptom = Symptom.BACKLOG_FULL
            await trio.sleep(_MAX_POLL_INTERVAL)


def _make_busy_result(reason: str) -> HealthCheckResult:
    return HealthCheckResult(is_alive=True, is_serving=False, reason=reason, is_busy=True)


def _make_failed_result(reason: str, symptom: Symptom) -> HealthCheckResult:
    return HealthCheckResult(is_alive=False, is_serving=False, reason=reason, symptom=symptom)
