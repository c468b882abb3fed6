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

from meshtrio.address import TlsFiles
from meshtrio.client.dial import dial
from meshtrio.client.question import ClosedUnansweredError, Question, TooBusyError
from meshtrio.client.unix import WrongServerError
from meshtrio.errors import OUT_OF_RESOURCES, CallRefusedError, ConnectionLostError
from meshtrio.messages import health
from meshtrio.rpc.dynamic import method_of
from meshtrio.rpc.transport import Transport
from meshtrio.supervise.decisions.vitality import Condition, Symptom
from meshtrio.supervise.processes.activity import waited_for_cpu

_CHECK = Question(
    method_of(health.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]),
    health.HealthCheckRequest(),
)
_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.1
_LATE = 0.5
"""Seconds past a deadline that tell of a mesh which did not run."""
_MAX_WAIT = 0.5
"""Share of a check's time for which the mesh may wait for a CPU, if the check is to count."""


class NotReadyError(Exception):
    """A plugin was not ready in time; `missing` says what it was still missing."""

    def __init__(self, within: float, missing: str) -> None:
        super().__init__(f"was not ready within {within:g} s: {missing}")
        self.missing = missing


class _CannotAskError(Exception):
    """The mesh is out of descriptors, memory or threads, which says nothing about the plugin."""


@attrs.frozen
class Health:
    """What one question found."""

    alive: bool
    """It answered, whatever it said."""
    serving: bool
    reason: str = ""
    """What was missing to SERVING, as a phrase: "its health check says NOT_SERVING"."""
    latency: float = 0.0
    """Seconds to the answer."""
    is_foreign: bool = False
    """Another program than the plugin answers at its address; see `plugin_server`."""
    busy: bool = False
    """It rejected the question because it has too many connections or calls, which says nothing
    about whether it is SERVING."""
    symptom: Symptom | None = None
    """How it failed, if it is not alive."""
    condition: Condition | None = None
    """What it was found to do instead, if it is not alive."""


_SERVING = Health(alive=True, serving=True)

Connect = Callable[[str, TlsFiles | None], Awaitable[Transport]]
"""Connects to a server as `dial` does. Raises WrongServerError for one that is not the plugin's."""


class Probe(Protocol):
    """Asks after the health of plugins; a fake in tests."""

    async def wait_ready(
        self, address: str, within: float, tls: TlsFiles | None = None, connect: Connect = dial
    ) -> None: ...

    async def check(
        self, address: str, within: float, tls: TlsFiles | None = None, connect: Connect = dial
    ) -> Health: ...


class SocketProbe:
    """Asks over the plugin's own socket, with a connection for each question."""

    async def wait_ready(
        self, address: str, within: float, tls: TlsFiles | None = None, connect: Connect = dial
    ) -> None:
        """Wait until the server at an address is ready; cancellable.

        Raises NotReadyError after `within` seconds.
        """
        while True:
            progress = _Progress()
            with trio.move_on_after(within) as scope:
                await _until_serving(partial(connect, address, tls), progress)
                return
            if not _stood_still(scope):
                raise NotReadyError(within, str(progress))

    async def check(
        self, address: str, within: float, tls: TlsFiles | None = None, connect: Connect = dial
    ) -> Health:
        """Ask once, for at most `within` seconds of a mesh that is able to ask."""
        while True:
            asked, waited = trio.current_time(), waited_for_cpu()
            progress = _Progress()
            try:
                with trio.move_on_after(within) as scope:
                    found = await _ask(partial(connect, address, tls), progress)
                    return attrs.evolve(found, latency=trio.current_time() - asked)
            except _CannotAskError:
                # Outside the scope, whose end would be taken for the plugin's silence.
                await trio.sleep_until(scope.deadline)
                continue
            if not _stood_still(scope):
                latency = trio.current_time() - asked
                return _late(progress, within, latency, waited_for_cpu() - waited)


def _late(progress: _Progress, within: float, latency: float, waited: float) -> Health:
    """No answer came in time; the mesh itself waited for a CPU for some of the time."""
    reason, condition = f"{progress.step} within {within:g} s", None
    if waited > _MAX_WAIT * within:
        condition = Condition.MESH_OVERLOADED
        reason += f"; but the mesh waited for a CPU {100 * waited / within:.0f} % of the time"
    return Health(False, False, reason, latency, symptom=progress.symptom, condition=condition)


def _stood_still(scope: trio.CancelScope) -> bool:
    """Whether this process itself was stopped, or far too busy, when a deadline of its passed:
    the answer may be there, and nobody has looked."""
    return trio.current_time() - scope.deadline > _LATE


@attrs.define
class _Progress:
    """How far asking has come, which is told when the time is over."""

    answer: str = ""
    """What the last question found to be missing."""
    step: str = "it did not accept a connection"
    """What the question under way waits for."""
    since: float = math.inf
    """When that was begun."""
    symptom: Symptom = Symptom.NO_ANSWER

    def begin(self) -> None:
        self.step, self.since = "it did not accept a connection", trio.current_time()

    def end(self, answer: str) -> None:
        self.answer, self.since = answer, math.inf

    def __str__(self) -> str:
        # A question that was only just asked says less than the answer to the one before.
        had_time = trio.current_time() - self.since > _LONGEST_PAUSE
        return self.step if had_time or not self.answer else self.answer


async def _until_serving(connect: Callable[[], Awaitable[Transport]], progress: _Progress) -> None:
    pause = _FIRST_PAUSE
    while True:
        try:
            progress.begin()
            found = await _ask(connect, progress)
        except _CannotAskError as exc:
            progress.end(f"the mesh cannot ask it ({exc})")
        else:
            if found.serving:
                return
            progress.end(found.reason)
        await trio.sleep(pause)
        pause = min(pause * 1.1, _LONGEST_PAUSE)


async def _ask(connect: Callable[[], Awaitable[Transport]], progress: _Progress) -> Health:
    """Ask once; `progress` tells how far it came even when this is cancelled.

    Raises _CannotAskError where it is the mesh that lacks something.
    """
    try:
        transport = await _connect(connect, progress)
    except FileNotFoundError:
        return _dead("it has not bound its socket", Symptom.UNREACHABLE)
    except WrongServerError as exc:
        return Health(alive=False, serving=False, reason=exc.reason, is_foreign=True)
    except OSError as exc:
        if exc.errno in OUT_OF_RESOURCES:
            raise _CannotAskError(exc.strerror) from None
        found = _dead(f"its socket refuses connections ({exc.strerror})", Symptom.UNREACHABLE)
        if exc.errno == errno.EADDRNOTAVAIL:
            # No local port is left (ip_local_port_range); a wrong address is reported so as well.
            return attrs.evolve(found, condition=Condition.MESH_OVERLOADED)
        return found
    except RuntimeError as exc:
        # No thread can be started, to look up a host or to read TLS files.
        raise _CannotAskError(str(exc)) from None
    progress.step = "it accepted a connection but did not answer the health check"
    progress.symptom = Symptom.NO_ANSWER
    return await _answer(transport)


async def _answer(transport: Transport) -> Health:
    try:
        reply = await _CHECK.ask(transport)
    except purerpc.UnimplementedError:
        return _SERVING
    except (purerpc.ResourceExhaustedError, CallRefusedError) as exc:
        return _busy(f"its health check was rejected with {exc.status}")
    except TooBusyError as exc:
        return _busy(f"it rejected the connection: {exc.status.status_message}")
    except ConnectionLostError as exc:
        text = f"it accepted a connection and then: {exc.status.status_message}"
        closed = isinstance(exc, ClosedUnansweredError)
        return _dead(text, Symptom.CLOSED if closed else Symptom.WRONG_ANSWER)
    except purerpc.RpcFailedError as exc:
        return _dead(f"its health check failed with {exc.status}", Symptom.WRONG_ANSWER)
    if reply.status == health.HealthCheckResponse.SERVING:
        return _SERVING
    return Health(alive=True, serving=False, reason="its health check says NOT_SERVING")


async def _connect(connect: Callable[[], Awaitable[Transport]], progress: _Progress) -> Transport:
    """Connect. On a Unix socket a full backlog is an error (EAGAIN) that this waits out."""
    while True:
        try:
            return await connect()
        except BlockingIOError:
            progress.step = "its backlog was full: it accepted no connection"
            progress.symptom = Symptom.BACKLOG_FULL
            await trio.sleep(_LONGEST_PAUSE)


def _busy(reason: str) -> Health:
    return Health(alive=True, serving=False, reason=reason, busy=True)


def _dead(reason: str, symptom: Symptom) -> Health:
    return Health(alive=False, serving=False, reason=reason, symptom=symptom)
