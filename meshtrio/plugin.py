"""What a plugin author imports.

    from meshtrio import plugin
    plugin.run(EchoServicer())

A servicer is an ordinary purerpc one. Health, reflection and channelz are served beside it, and
SIGTERM drains: no new calls, and the running ones finish within the grace the mesh gives.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    nullcontext,
    suppress,
)
from functools import partial
from typing import TYPE_CHECKING, Any

import trio

from meshtrio import standard_streams
from meshtrio.contract import (
    DRAIN_CUT,
    DRAIN_DONE,
    GRPC_BINARY_LOG_FILTER,
    MESH_LIFE,
    MESH_PIDFD,
    PLUGIN_LISTEN,
    PLUGIN_LOG_LEVEL,
    PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH,
    PLUGIN_MAX_SEND_MESSAGE_LENGTH,
    PLUGIN_METRICS,
    PLUGIN_SOCKET,
    PLUGIN_STOP_TIMEOUT,
    PLUGIN_TLS_CERTIFICATE,
    PLUGIN_TLS_CLIENT_CA,
    PLUGIN_TLS_KEY,
)
from meshtrio.errors import UsageError
from meshtrio.forks import children_reset
from meshtrio.levels import ProcessLevel
from meshtrio.rpc.current import current_call
from meshtrio.rpc.listener import tcp_listener, unix_listener
from meshtrio.rpc.memory import freeze_startup_objects
from meshtrio.rpc.message_limits import checked_length, with_lengths
from meshtrio.rpc.peer import parent_of_session
from meshtrio.rpc.server import Server, ServerInterceptor
from meshtrio.services.standard import standard_server
from meshtrio.stacks import report_on_sigquit
from meshtrio.structured import (
    check_in_trio,
    open_nursery_of_one,
    runs_in_asyncio,
    told_to_stop,
)
from meshtrio.supervise.processes.descriptors import LIMIT
from meshtrio.telemetry.logs import plugin as logs
from meshtrio.wire.limits import Limits

if TYPE_CHECKING:
    from meshtrio.services.health import HealthServicer
    from meshtrio.telemetry.metrics import Metrics

__all__ = ["current_call", "run", "serve"]

_log = logging.getLogger("meshtrio.plugin")

_STDERR = 2
_DEFAULT_GRACE = 5.0
_PART_OF_STOP_TIMEOUT = 0.8
"""Of the time between SIGTERM and SIGKILL, so that cut handlers can still clean up."""


def run(
    *servicers: Any,
    limits: Limits | None = None,
    interceptors: Sequence[ServerInterceptor] = (),
    max_receive_message_length: int | None = None,
    max_send_message_length: int | None = None,
) -> None:
    """Serve as a plugin until SIGTERM, Ctrl-C or SIGHUP, then return: the program is to exit with
    status 0. From then on these signals do nothing, as it has stopped already. SystemExit or
    KeyboardInterrupt in a handler makes it drain likewise and is then raised, so that the program
    exits with that status; callers of calls that this cuts get PluginDiedError. Whatever else a
    handler raises fails its call alone, with UNKNOWN.

    `max_receive_message_length` and `max_send_message_length` limit one message, in bytes after
    decompression and before compression; -1 is no limit. By default those of `limits`, which are
    4 MiB to receive and no limit to send; what the plugin's [[plugin]] table says overrides both.

    Answers SIGQUIT with the stacks of its threads and tasks on stderr, which is what the mesh asks
    of a plugin that fails its health checks. Without a mesh, with PLUGIN_SOCKET missing, exits with
    status 2 and says what to do. Sets up logging to stderr unless the program has done so: for a
    mesh to read, each record is a line of JSON, with the ids of the trace that it belongs to.
    """
    standard_streams.open_missing()
    if trio.lowlevel.in_trio_run() or runs_in_asyncio():
        raise UsageError(
            "plugin.run starts trio itself, and cannot be called from within an event loop: call "
            "it as the program's last line, or `await plugin.serve(…)` from a trio program"
        )
    report_on_sigquit()
    logs.set_up()
    try:
        limits = with_lengths(limits, max_receive_message_length, max_send_message_length)
        trio.run(partial(_serve, servicers, limits, interceptors, for_good=True))
    except UsageError as exc:
        print(f"{sys.argv[0]}: {exc}", file=sys.stderr)
        sys.exit(2)


async def serve(
    *servicers: Any,
    limits: Limits | None = None,
    interceptors: Sequence[ServerInterceptor] = (),
    max_receive_message_length: int | None = None,
    max_send_message_length: int | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve on PLUGIN_SOCKET until SIGTERM, SIGINT or SIGHUP, then drain and return.

    Tasks that run beside it are the program's to end then: a program that goes on is killed when
    its stop_timeout is over, with the stacks of its tasks in the mesh's log. If the mesh is killed,
    and its warden with it, this process stops in the same way by itself.

    Reports started once the socket is bound and answers. Must run in the main thread, which gets
    the signals. `interceptors` are async context managers, each given the call and entered around
    its handler; `current_call()` is the call where it is not handed on. A log level that the mesh
    says (PLUGIN_LOG_LEVEL, and later by a call) becomes that of the root logger. The lengths of
    messages are those of `run`. When cancelled it stops at once, and callers are told UNAVAILABLE.
    Raises UsageError for servicers that are none and for a socket that cannot be bound, and the
    SystemExit or KeyboardInterrupt that a handler has raised, after a drain like that of SIGTERM.
    """
    limits = with_lengths(limits, max_receive_message_length, max_send_message_length)
    await _serve(servicers, limits, interceptors, task_status=task_status)


async def _serve(
    servicers: Sequence[Any],
    limits: Limits | None,
    interceptors: Sequence[ServerInterceptor],
    *,
    for_good: bool = False,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """`for_good`: the process has nothing else to do."""
    check_in_trio("plugin.serve")
    if MESH_LIFE in os.environ:
        # Before it kills what does not stop in time, the mesh asks where it is.
        report_on_sigquit()
    LIMIT.raise_to_hard()
    level = ProcessLevel()
    _heed_environment(level)
    with told_to_stop(for_good=for_good) as signals, children_reset():
        async with _telling() as metrics:
            server, health = standard_server(
                *servicers,
                limits=_heed_lengths(limits),
                interceptors=interceptors,
                metrics=metrics,
                log_level=level,
            )
            # The mesh passes on the calls of many, and with them what those give up.
            server.trusted_pid = parent_of_session()
            with _listener() as listener:
                stop = server.on_exit = partial(_stop, server, health)
                server.ends_with_process = for_good
                async with _stopped_with_mesh(), open_nursery_of_one() as nursery:
                    await nursery.start(partial(server.serve, ssl_context=_ssl_context()), listener)
                    if for_good:
                        freeze_startup_objects()
                    task_status.started()
                    await anext(signals)
                    await stop()


@asynccontextmanager
async def _stopped_with_mesh() -> AsyncIterator[None]:
    """Have this process stopped if the mesh's process ends during the block, however it ends."""
    async with open_nursery_of_one() as nursery:
        if MESH_PIDFD in os.environ:
            from meshtrio.supervise.processes.mesh_end import stop_with_mesh  # only in a mesh

            nursery.start_soon(stop_with_mesh)
        yield
        nursery.cancel_scope.cancel()


async def _stop(server: Server, health: HealthServicer) -> None:
    health.stop_serving()
    _report_drained(await server.drain(_grace()))


def _report_drained(cut: Sequence[str]) -> None:
    """Log which calls were cut, and report it to the mesh, if there is one, whatever is logged."""
    for path in cut:
        _log.warning("call cut at the end of its grace: %s", path)
    if MESH_LIFE in os.environ:
        lines = [f"{DRAIN_CUT}{json.dumps(path)}}}\n" for path in cut]
        with suppress(OSError):
            # Not by sys.stderr, which the program may have replaced.
            for line in (*lines, f"{DRAIN_DONE}\n"):
                os.write(_STDERR, line.encode())


def _telling() -> AbstractAsyncContextManager[Metrics | None]:
    told = (PLUGIN_METRICS, "OTEL_TRACES_EXPORTER", GRPC_BINARY_LOG_FILTER)
    if not any(key in os.environ for key in told):
        return nullcontext()
    from meshtrio.telemetry.in_plugin import telling  # off by default

    return telling()


def _heed_environment(level: ProcessLevel) -> None:
    try:
        level.heed(os.environ.get(PLUGIN_LOG_LEVEL, ""))
    except UsageError as exc:
        _log.warning("%s: %s", PLUGIN_LOG_LEVEL, exc)


def _heed_lengths(limits: Limits | None) -> Limits | None:
    """Apply the lengths of messages that the mesh's config sets."""
    receive = _length_in(PLUGIN_MAX_RECEIVE_MESSAGE_LENGTH)
    return with_lengths(limits, receive, _length_in(PLUGIN_MAX_SEND_MESSAGE_LENGTH))


def _length_in(variable: str) -> int | None:
    text = os.environ.get(variable)
    try:
        return None if text is None else checked_length(variable, int(text))
    except (ValueError, UsageError):
        _log.warning("%s is %r, not a number of bytes or -1; ignoring it", variable, text)
        return None


def _listener() -> AbstractContextManager[socket.socket]:
    where = os.environ.get(PLUGIN_LISTEN)
    return tcp_listener(where) if where else unix_listener(_socket_path())


def _ssl_context() -> ssl.SSLContext | None:
    """What the mesh says to serve TLS with. Raises UsageError for files that cannot be used."""
    certificate = os.environ.get(PLUGIN_TLS_CERTIFICATE)
    if certificate is None:
        return None
    key, client_ca = os.environ.get(PLUGIN_TLS_KEY), os.environ.get(PLUGIN_TLS_CLIENT_CA)
    from meshtrio.rpc.tls import server_context  # few plugins need it

    try:
        return server_context(certificate, key, client_ca)
    except OSError as exc:
        raise UsageError(f"the TLS files cannot be used: {exc.strerror or exc}") from None


def _socket_path() -> str:
    path = os.environ.get(PLUGIN_SOCKET)
    if not path:
        raise UsageError(
            "PLUGIN_SOCKET is not set. A mesh sets it: list this program as a [[plugin]] and run "
            "`python -m meshtrio serve`. To run it alone: PLUGIN_SOCKET=/tmp/plugin.sock"
        )
    return path


def _grace() -> float:
    try:
        return float(os.environ[PLUGIN_STOP_TIMEOUT]) * _PART_OF_STOP_TIMEOUT
    except (KeyError, ValueError):
        return _DEFAULT_GRACE
