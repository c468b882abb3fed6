"""Serve gRPC as a plugin.

    from meshtrio import plugin
    plugin.run(EchoServicer())

Servicers are ordinary purerpc ones. Health, reflection and channelz are served in addition.

The mesh configures a plugin through its environment (`meshtrio.contract`). `serve` reads it, binds
the socket unless the process has inherited it, and starts, as far as configured: metrics, traces,
the binary log, TLS. Then it waits for a stop signal or the end of the mesh's process, and drains:
health reports NOT_SERVING, new calls are refused (GOAWAY), and calls under way have most of
`stop_timeout` to finish. Which of them did not is reported to the mesh on stderr.

What few plugins need is imported where it is used, since each import delays every plugin's start.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import socket
import ssl
import sys
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from meshtrio import contract
from meshtrio.http2.limits import Limits
from meshtrio.rpc.context import current_call
from meshtrio.rpc.message_limits import parse_message_length, with_message_lengths
from meshtrio.rpc.server import Server
from meshtrio.rpc.server_call import ServerInterceptor
from meshtrio.rpc.timeouts import Timeouts, with_configured_ages
from meshtrio.services.health import HealthServicer
from meshtrio.services.standard import add_standard_services
from meshtrio.telemetry import logs
from meshtrio.transport.inherited_listener import take_inherited_listener
from meshtrio.transport.listener import tcp_listener, unix_listener
from meshtrio.util import concurrency, standard_streams
from meshtrio.util.descriptor_limit import DESCRIPTOR_LIMIT
from meshtrio.util.errors import UsageError
from meshtrio.util.log_level import ProcessLogLevel
from meshtrio.util.malloc_tuning import MALLOC_TUNING
from meshtrio.util.signals import dump_on_sigquit, reset_signals_in_forks, stop_signals

if TYPE_CHECKING:
    from meshtrio.telemetry.metrics import Metrics

__all__ = ["current_call", "run", "serve"]

_log = logging.getLogger("meshtrio.plugin")

_STDERR_FD = 2
_DEFAULT_DRAIN_TIMEOUT = 5.0
"""Seconds that calls have to finish when no mesh has set a stop timeout."""
_DRAIN_FRACTION_OF_STOP_TIMEOUT = 0.8
"""Fraction of the time between SIGTERM and SIGKILL that calls have to finish. Handlers that are
cancelled then clean up in the rest."""


def run(
    *servicers: Any,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    interceptors: Sequence[ServerInterceptor] = (),
    max_receive_message_length: int | None = None,
    max_send_message_length: int | None = None,
    max_busy_poll: float | None = None,
) -> None:
    """Serve as a plugin until SIGTERM, SIGINT or SIGHUP, then drain and return.

    Call it last in the program, which is to exit with status 0 then: from the first stop signal on,
    further ones are ignored. It starts trio, sets up logging to stderr unless the program has done
    so (in a mesh, one JSON object a line, with trace ids), and dumps the stacks of threads and
    tasks on SIGQUIT, which the mesh sends to a plugin that fails its health checks.

    Args:
        servicers: purerpc servicers.
        limits: Limits on what peers may send and open.
        timeouts: Timeouts of connections. Defaults to those of `Timeouts`: no keepalive, and no
            limit on the age of a connection. `max_connection_age` and `max_connection_age_grace`
            of the plugin's [[plugin]] table override it.
        interceptors: Entered around each handler, the first one outermost; see `serve`.
        max_receive_message_length: Bytes of the longest message to receive, after decompression;
            -1 for no limit. Defaults to that of `limits`, 4 MiB. The plugin's [[plugin]] table
            overrides it.
        max_send_message_length: Bytes of the longest message to send, before compression; -1 for
            no limit. Defaults to that of `limits`, no limit. The plugin's [[plugin]] table
            overrides it.
        max_busy_poll: Maximum seconds for which a connection polls its socket before the process
            sleeps, up to 0.01; 0 for never. Defaults to 0.0005. MESHTRIO_BUSY_POLL overrides it,
            which the plugin's [[plugin]] table sets.

    Raises:
        UsageError: An event loop is running already; see `serve`.
        SystemExit: With status 2 and a message on stderr, if PLUGIN_SOCKET is not set, a servicer
            is none, the socket or the TLS files cannot be used, or `max_busy_poll` or
            MESHTRIO_BUSY_POLL is invalid. With the status of the SystemExit that a handler has
            raised, after a drain; calls that this cuts fail with PluginDiedError.
        KeyboardInterrupt: A handler has raised it; likewise.
    """
    standard_streams.open_missing_streams()
    if trio.lowlevel.in_trio_run() or concurrency.is_in_asyncio():
        raise UsageError(
            "plugin.run starts trio itself and cannot be called from a running event loop: call "
            "it last in the program, or `await plugin.serve(…)` from a trio program"
        )
    dump_on_sigquit()
    MALLOC_TUNING.enable()
    logs.configure_logging()
    try:
        limits = with_message_lengths(limits, max_receive_message_length, max_send_message_length)
        serve = partial(_serve, servicers, limits, timeouts, interceptors, max_busy_poll)
        trio.run(partial(serve, exits_afterwards=True))
    except UsageError as exc:
        print(f"{sys.argv[0]}: {exc}", file=sys.stderr)
        sys.exit(2)


async def serve(
    *servicers: Any,
    limits: Limits | None = None,
    timeouts: Timeouts | None = None,
    interceptors: Sequence[ServerInterceptor] = (),
    max_receive_message_length: int | None = None,
    max_send_message_length: int | None = None,
    max_busy_poll: float | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on PLUGIN_SOCKET until SIGTERM, SIGINT or SIGHUP, then drain and return.

    For programs that run trio themselves. Must run in the main thread, which receives the signals.
    The process is expected to exit soon after: one that is still running after `stop_timeout` is
    killed, with the stacks of its tasks in the mesh's log. It stops in the same way when the mesh's
    process has ended. A log level that the mesh sets becomes that of the root logger.

    Args:
        servicers: purerpc servicers.
        limits: Limits on what peers may send and open.
        timeouts: As in `run`.
        interceptors: Each is called with a call's `ServerContext`, and the async context manager
            that it returns is entered around the call's handler, the first one outermost. What it
            raises is the status of the call.
        max_receive_message_length: As in `run`.
        max_send_message_length: As in `run`.
        max_busy_poll: As in `run`.
        task_status: Started once the socket is bound and answers.

    Cancellation:
        Stops at once, without a drain: callers get UNAVAILABLE.

    Raises:
        UsageError: A servicer is none, PLUGIN_SOCKET is not set, the socket or the TLS files
            cannot be used, or `max_busy_poll` or MESHTRIO_BUSY_POLL is invalid.
        SystemExit: A handler has raised it; the server was drained first.
        KeyboardInterrupt: Likewise.
    """
    limits = with_message_lengths(limits, max_receive_message_length, max_send_message_length)
    await _serve(servicers, limits, timeouts, interceptors, max_busy_poll, task_status=task_status)


async def _serve(
    servicers: Sequence[Any],
    limits: Limits | None,
    timeouts: Timeouts | None,
    interceptors: Sequence[ServerInterceptor],
    max_busy_poll: float | None,
    *,
    exits_afterwards: bool = False,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve, and drain. `exits_afterwards`: the process will do nothing else."""
    concurrency.require_trio("plugin.serve")
    if contract.MESH_LAUNCH_ID in os.environ:
        # The mesh sends SIGQUIT before it kills a process that does not stop in time.
        dump_on_sigquit()
    DESCRIPTOR_LIMIT.raise_to_hard_limit()
    level = ProcessLogLevel()
    _apply_log_level_variable(level)
    # The mesh's config overrides the lengths of `limits`.
    receive = _read_message_length(contract.PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH)
    send = _read_message_length(contract.PLUGIN_MAX_SEND_MESSAGE_LENGTH)
    with stop_signals(ignore_afterwards=exits_afterwards) as signals, reset_signals_in_forks():
        async with _telemetry() as metrics:
            health = HealthServicer()
            server = Server(
                *servicers,
                health,
                limits=with_message_lengths(limits, receive, send),
                timeouts=with_configured_ages(timeouts),
                interceptors=interceptors,
                max_busy_poll=max_busy_poll,
            )
            add_standard_services(server, health, metrics=metrics, log_level=level)
            # The mesh forwards calls of many clients, and their cancellations: no rapid reset.
            server.trusted_pid = _session_parent_pid()
            with _open_listener() as listener:
                stop = server.on_exit = partial(_drain, server, health)
                server.owns_process = exits_afterwards
                async with (
                    concurrency.run_during(_stop_when_mesh_ends),
                    concurrency.run_during(partial(_report_idleness, server, health)),
                    concurrency.open_collapsing_nursery() as nursery,
                ):
                    tls = _make_ssl_context()
                    await nursery.start(partial(server.serve, ssl_context=tls), listener)
                    if exits_afterwards:
                        gc.freeze()  # Collections look at newer objects only, and are shorter.
                    task_status.started()
                    await anext(signals)
                    await stop()


def _session_parent_pid() -> int:
    """Return the parent of this process's session leader: in a plugin, the pid of the mesh.

    A mesh starts each plugin in a session of its own, whose leader may be a shell that has started
    this process.
    """
    try:
        with open(f"/proc/{os.getsid(0)}/stat", "rb") as file:
            # The command name in parentheses may contain anything.
            return int(file.read().rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return os.getppid()


async def _stop_when_mesh_ends() -> None:
    """Stop this process when the mesh's process, if there is one, ends for whatever reason."""
    if contract.MESH_PIDFD in os.environ:
        # Only in a mesh:
        from meshtrio.supervisor.process.cleanup.mesh_exit import stop_on_mesh_exit

        await stop_on_mesh_exit()


async def _drain(server: Server, health: HealthServicer) -> None:
    """Drain, log the calls that this has cut, and report them to the mesh, if there is one."""
    health.shutdown_started.set()
    paths = await server.drain(_get_drain_timeout())
    for path in paths:
        _log.warning("call cut at the end of the drain: %s", path)
    if contract.MESH_LAUNCH_ID in os.environ:
        import json

        lines = [f"{contract.DRAIN_CUT_CALL}{json.dumps(path)}}}" for path in paths]
        _report_to_mesh(*lines, contract.DRAIN_DONE)


def _report_to_mesh(*lines: str) -> None:
    """Write lines to stderr, for the mesh. The program may have replaced sys.stderr."""
    with contextlib.suppress(OSError):
        for line in lines:
            os.write(_STDERR_FD, f"{line}\n".encode())


async def _report_idleness(server: Server, health: HealthServicer) -> None:
    """Report to the mesh whenever there were no calls for a time, if it is to know."""
    variable, text = contract.PLUGIN_IDLE_TIMEOUT, os.environ.get(contract.PLUGIN_IDLE_TIMEOUT)
    if text is None:
        return
    try:
        timeout = float(text)
    except ValueError:
        timeout = 0.0
    if not 0 < timeout < math.inf:
        _log.warning("%s is %r, not a number of seconds; ignoring it", variable, text)
        return
    # Few plugins need it.
    from meshtrio.services.idleness import report_idleness

    def report() -> None:
        if not health.shutdown_started.is_set():
            _report_to_mesh(contract.IDLE)

    await report_idleness(server.load_recorder, timeout, report)


def _telemetry() -> contextlib.AbstractAsyncContextManager[Metrics | None]:
    variables = (contract.PLUGIN_METRICS, "OTEL_TRACES_EXPORTER", contract.GRPC_BINARY_LOG_FILTER)
    if not any(variable in os.environ for variable in variables):
        return contextlib.nullcontext()
    from meshtrio.telemetry.setup import plugin_telemetry

    return plugin_telemetry()


def _apply_log_level_variable(level: ProcessLogLevel) -> None:
    try:
        level.set(os.environ.get(contract.PLUGIN_LOG_LEVEL, ""))
    except UsageError as exc:
        _log.warning("%s: %s", contract.PLUGIN_LOG_LEVEL, exc)


def _read_message_length(variable: str) -> int | None:
    text = os.environ.get(variable)
    try:
        return None if text is None else parse_message_length(variable, int(text))
    except (ValueError, UsageError):
        _log.warning("%s is %r, not a number of bytes or -1; ignoring it", variable, text)
        return None


def _open_listener() -> contextlib.AbstractContextManager[socket.socket]:
    if "LISTEN_PID" in os.environ and (inherited := take_inherited_listener()) is not None:
        return inherited
    if address := os.environ.get(contract.PLUGIN_LISTEN):
        return tcp_listener(address)
    if path := os.environ.get(contract.PLUGIN_SOCKET):
        return unix_listener(path)
    raise UsageError(
        "PLUGIN_SOCKET is not set. A mesh sets it: list this program as a [[plugin]] and run "
        "`python -m meshtrio serve`. To run it alone: PLUGIN_SOCKET=/tmp/plugin.sock"
    )


def _make_ssl_context() -> ssl.SSLContext | None:
    """Make the TLS context of the mesh's config; None for plaintext. Raises UsageError."""
    certificate = os.environ.get(contract.PLUGIN_TLS_CERTIFICATE)
    if certificate is None:
        return None
    key = os.environ.get(contract.PLUGIN_TLS_KEY)
    client_ca = os.environ.get(contract.PLUGIN_TLS_CLIENT_CA)
    from meshtrio.transport.tls import make_server_ssl_context

    try:
        return make_server_ssl_context(certificate, key, client_ca)
    except OSError as exc:
        raise UsageError(f"cannot use the TLS files: {exc.strerror or exc}") from None


def _get_drain_timeout() -> float:
    try:
        return float(os.environ[contract.PLUGIN_STOP_TIMEOUT]) * _DRAIN_FRACTION_OF_STOP_TIMEOUT
    except (KeyError, ValueError):
        return _DEFAULT_DRAIN_TIMEOUT
