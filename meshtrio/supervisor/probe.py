"""Checks whether a plugin is ready and alive: its socket accepts, and its health is SERVING.

Source: grpc/doc/health-checking.md. A server without a health service is ready when it answers.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Awaitable, Callable

import attrs
import purerpc
import trio

from meshtrio.errors import CallRefusedError, ConnectionLostError
from meshtrio.messages import health
from meshtrio.rpc.one_shot_call import ClosedWithoutResponseError, OneShotCall, PeerOverloadedError
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor
from meshtrio.supervisor.acceptance import UnknownAcceptorError
from meshtrio.supervisor.policy.diagnosis import Condition
from meshtrio.supervisor.process.proc.activity import read_thread_cpu_wait
from meshtrio.transport.dial import WrongServerError
from meshtrio.transport.transport import Transport
from meshtrio.util.errors import RESOURCE_EXHAUSTED_ERRNOS

_HEALTH_CHECK = OneShotCall(
    method_from_descriptor(health.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]),
    health.HealthCheckRequest(),
)
_MIN_POLL_INTERVAL = 0.005
_MAX_POLL_INTERVAL = 0.1
_STALL_THRESHOLD = 0.5
"""Seconds past a deadline from which on the mesh itself is taken to have been suspended."""
_MAX_CPU_WAIT_FRACTION = 0.5
"""Fraction of a check's time above which the check does not count, since the mesh lacked a CPU."""


class NotReadyError(Exception):
    """A plugin was not ready in time; `missing` is what was still missing, as a phrase."""

    def __init__(self, timeout: float, missing: str) -> None:
        super().__init__(f"was not ready within {timeout:g} s: {missing}")
        self.missing = missing


class _ProbeResourceError(Exception):
    """The mesh is out of descriptors, memory or threads; the plugin was not checked."""


@attrs.frozen
class HealthCheckResult:
    """The result of one health check."""

    is_alive: bool
    """Whether the plugin answered, with any status."""
    is_serving: bool
    """Whether the answer was SERVING, or the plugin has no health service."""
    reason: str = ""
    """Why it is not SERVING, as a phrase: "its health check says NOT_SERVING"."""
    latency: float = 0.0
    """Seconds until the answer."""
    is_wrong_server: bool = False
    """Whether another program than the plugin answers at its address; see `server_identity`."""
    is_busy: bool = False
    """Whether the check was rejected because the plugin has too many connections or calls, so that
    its health is not known."""
    condition: Condition | None = None
    """What the plugin does instead of answering, if it is not alive: what the check alone has
    found, until the plugin was observed."""


SERVING = HealthCheckResult(True, True)
_CONNECTING = "it did not accept a connection"

Connect = Callable[[], Awaitable[Transport]]
"""Connects to a server. Raises WrongServerError if it is not the plugin's."""


Query = Callable[[Transport], Awaitable[HealthCheckResult]]
"""Asks a server over a new connection, which it closes."""


@attrs.frozen
class SocketProbe:
    """Checks health over a plugin's socket, with a connection for each check."""

    _read_cpu_wait: Callable[[], float] = read_thread_cpu_wait
    """Returns how long this thread has waited for a CPU so far, in seconds."""
    _query: Query | None = None
    """Asks the server; None for gRPC's health check."""
    _request_name: str = "the health check"
    """What the server has to answer, for messages."""

    async def wait_ready(self, max_time: float, connect: Connect) -> None:
        """Wait until a server is ready. Raises NotReadyError after the timeout."""
        while True:
            progress = _Progress()
            with trio.move_on_after(max_time) as scope:
                await self._poll_until_serving(connect, progress)
                return
            if not was_stalled(scope):
                raise NotReadyError(max_time, str(progress))

    async def check(self, max_time: float, connect: Connect) -> HealthCheckResult:
        """Make one health check, which waits up to the timeout for the answer.

        A check that the mesh could not make, for lack of descriptors, memory or threads or because
        it was suspended, is repeated.
        """
        while True:
            started_at, waited = trio.current_time(), self._read_cpu_wait()
            progress = _Progress()
            try:
                with trio.move_on_after(max_time) as scope:
                    found = await self._check_once(connect, progress)
                    return attrs.evolve(found, latency=trio.current_time() - started_at)
            except _ProbeResourceError:
                # Outside the scope, whose end would count as a missing answer.
                await trio.sleep_until(scope.deadline)
                continue
            if not was_stalled(scope):
                latency = trio.current_time() - started_at
                run_delay = self._read_cpu_wait() - waited
                return _make_timeout_result(progress, max_time, latency, run_delay)

    async def _poll_until_serving(self, connect: Connect, progress: _Progress) -> None:
        pause = _MIN_POLL_INTERVAL
        while True:
            progress.step, progress.step_started_at = _CONNECTING, trio.current_time()
            try:
                found = await self._check_once(connect, progress)
                if found.is_serving:
                    return
                progress.last_problem = found.reason
            except _ProbeResourceError as exc:
                progress.last_problem = f"the mesh cannot check it ({exc})"
            progress.step_started_at = math.inf
            await trio.sleep(pause)
            pause = min(pause * 1.1, _MAX_POLL_INTERVAL)

    async def _check_once(self, connect: Connect, progress: _Progress) -> HealthCheckResult:
        """Make one check; `progress` is updated, and valid even if this is cancelled.

        Raises _ProbeResourceError if the mesh lacks descriptors, memory or threads.
        """
        try:
            transport = await _connect(connect, progress)
        except FileNotFoundError:
            return make_failed_result("it has not bound its socket", Condition.UNREACHABLE)
        except UnknownAcceptorError as exc:
            progress.obstacle = str(exc)
            return make_failed_result(str(exc), Condition.UNREACHABLE)
        except WrongServerError as exc:
            return HealthCheckResult(False, False, exc.reason, is_wrong_server=True)
        except OSError as exc:
            if exc.errno in RESOURCE_EXHAUSTED_ERRNOS:
                raise _ProbeResourceError(exc.strerror) from None
            reason = f"its socket refuses connections ({exc.strerror})"
            # No local port is left (ip_local_port_range); a wrong address is reported so as well.
            is_mesh_overloaded = exc.errno == errno.EADDRNOTAVAIL
            condition = Condition.MESH_OVERLOADED if is_mesh_overloaded else Condition.UNREACHABLE
            return make_failed_result(reason, condition)
        except RuntimeError as exc:
            # No thread can be started, for looking up a host or reading TLS files.
            raise _ProbeResourceError(str(exc)) from None
        progress.obstacle = ""
        progress.step = f"it accepted a connection but did not answer {self._request_name}"
        progress.condition = Condition.STUCK
        return await (self._query or _query_health)(transport)


def _make_timeout_result(
    progress: _Progress, timeout: float, latency: float, run_delay: float
) -> HealthCheckResult:
    """Make the result of a check without an answer; `run_delay` is how long the mesh waited for a
    CPU meanwhile."""
    reason, condition = f"{progress.step} within {timeout:g} s", progress.condition
    if run_delay > _MAX_CPU_WAIT_FRACTION * timeout:
        condition = Condition.MESH_OVERLOADED
        reason += f"; but the mesh waited for a CPU {100 * run_delay / timeout:.0f} % of the time"
    return HealthCheckResult(False, False, reason, latency, condition=condition)


def was_stalled(scope: trio.CancelScope) -> bool:
    """Whether this process was suspended or far too busy when a deadline passed, so that it may not
    have read the answer."""
    return trio.current_time() - scope.deadline > _STALL_THRESHOLD


@attrs.define
class _Progress:
    """How far a check has come, for the reason of a timeout."""

    last_problem: str = ""
    """Why the last check did not find SERVING."""
    step: str = _CONNECTING
    """What the check in progress waits for."""
    step_started_at: float = math.inf
    """When that step was started."""
    condition: Condition = Condition.STUCK
    """What the check has found if its time is over now."""
    obstacle: str = ""
    """Why no connection can be attributed to the plugin, if that is so."""

    def __str__(self) -> str:
        if self.obstacle:
            return self.obstacle
        # A check that was only just started tells less than the result of the one before.
        had_time = trio.current_time() - self.step_started_at > _MAX_POLL_INTERVAL
        return self.step if had_time or not self.last_problem else self.last_problem


async def _query_health(transport: Transport) -> HealthCheckResult:
    try:
        reply = await _HEALTH_CHECK.call(transport)
    except purerpc.UnimplementedError:
        return SERVING
    except (purerpc.ResourceExhaustedError, CallRefusedError) as exc:
        return _make_busy_result(f"its health check was rejected with {exc.status}")
    except PeerOverloadedError as exc:
        return _make_busy_result(f"it rejected the connection: {exc.status.status_message}")
    except ConnectionLostError as exc:
        text = f"it accepted a connection and then: {exc.status.status_message}"
        closed = isinstance(exc, ClosedWithoutResponseError)
        return make_failed_result(text, Condition.CLOSING if closed else Condition.FAULTY)
    except purerpc.RpcFailedError as exc:
        text = f"its health check failed with {exc.status}"
        return make_failed_result(text, Condition.FAULTY)
    if reply.status == health.HealthCheckResponse.SERVING:
        return SERVING
    return HealthCheckResult(True, False, "its health check says NOT_SERVING")


async def _connect(connect: Connect, progress: _Progress) -> Transport:
    """Connect, and retry while the backlog of a Unix socket is full (EAGAIN)."""
    while True:
        try:
            return await connect()
        except BlockingIOError:
            progress.step = "its backlog was full: it accepted no connection"
            progress.condition = Condition.BACKLOG_FULL
            await trio.sleep(_MAX_POLL_INTERVAL)


def _make_busy_result(reason: str) -> HealthCheckResult:
    return HealthCheckResult(True, False, reason, is_busy=True)


def make_failed_result(reason: str, condition: Condition) -> HealthCheckResult:
    return HealthCheckResult(False, False, reason, condition=condition)
