"""A subchannel keeps a connection to one endpoint while any channel of the process uses it."""

from __future__ import annotations

import logging
import math
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING

import trio

from meshtrio.discovery.endpoint import Endpoint
from meshtrio.errors import ConnectionLostError
from meshtrio.http2.limits import Limits
from meshtrio.rpc import channelz_registry
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.rpc.connection import check_timeouts_forever
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.timeouts import NETWORK_TIMEOUTS, Timeouts
from meshtrio.transport.busy_poll import BusyPoll
from meshtrio.transport.dial import dial
from meshtrio.transport.transport import Transport
from meshtrio.util.address import Address
from meshtrio.util.busy_poll_setting import DEFAULT_MAX_BUSY_POLL
from meshtrio.util.errors import RESOURCE_EXHAUSTED_ERRNOS
from meshtrio.util.record import FrozenRecord
from meshtrio.util.shared_rng import RNG
from meshtrio.util.tls_config import ClientTlsConfig

if TYPE_CHECKING:
    from meshtrio.rpc.connected_stream import ConnectedStream

_log = logging.getLogger("meshtrio.rpc")

_CONNECT_TIMEOUT = 10.0
"""Seconds that an attempt to connect may take."""
_BACKLOG_TIMEOUT = 5.0
"""Seconds to wait for room in a full listen backlog."""
_MIN_STABLE_TIME = 5.0
"""Seconds after which a connection counts as successful, even without a call."""
_MAX_LOCAL_ATTEMPTS = 16
"""Concurrent attempts on Unix sockets, which take no time unless a backlog is full."""
_MAX_REMOTE_ATTEMPTS = 64
"""Concurrent attempts across a network."""
_RETRY_RATE = 100.0
"""Repeated attempts per second, each of which costs about 0.15 ms of a core."""
_RETRY_BURST = 100
"""Repeated attempts that may be made at once."""


class ConnectionOptions(FrozenRecord):
    """Options of a channel's connections. Channels with equal options share subchannels."""

    limits: Limits | None = None
    """HTTP/2 limits; None for the defaults."""
    tls: ClientTlsConfig | None = None
    """TLS settings of all endpoints; None for those of each endpoint."""
    timeouts: Timeouts | None = None
    """Timeouts of connections; None for those of the endpoint's transport."""
    dialer: Callable[..., Awaitable[Transport]] = dial
    """Connects to an endpoint."""
    sends_before_settings: bool = False
    """Whether calls are sent with the connection preface (RFC 9113 §3.4), a round trip earlier.

    It is for calls that may be repeated: they fail if the server does not accept the connection,
    where others wait for another one.
    """
    max_busy_poll: float = DEFAULT_MAX_BUSY_POLL
    """Maximum time of a poll, in seconds; 0 for no busy polling."""


_LOCAL_TIMEOUTS = Timeouts(frame=math.inf, message=math.inf)
"""Default timeouts on Unix sockets. None of them has to be checked once a second: the kernel
reports the end of the peer's process, and a mesh notices by health checks that a plugin hangs."""
_NO_STREAMS: dict[int, ConnectedStream] = {}


class _RegistrarLimits:
    """Limits for the endpoints that one user has registered."""

    def __init__(self) -> None:
        self.local = trio.CapacityLimiter(_MAX_LOCAL_ATTEMPTS)
        self.remote = trio.CapacityLimiter(_MAX_REMOTE_ATTEMPTS)
        self.next_retry = 0.0


class DialLimiter:
    """Limits the attempts to connect of all subchannels of a pool.

    A registry may list any number of endpoints that nothing listens at. Each costs its clients an
    attempt to connect again and again, so attempts for endpoints that programs or the config have
    registered are limited: those under way, and the rate of repeated ones. Each registrar has
    limits of its own, so that its endpoints do not delay those of others. Endpoints that the mesh
    runs, and addresses that a channel was opened to, are not limited: their number is configured.
    """

    def __init__(self) -> None:
        self._limits: defaultdict[int | None, _RegistrarLimits] = defaultdict(_RegistrarLimits)
        """Limits by uid of the registrar; None for the mesh's own user and its config."""

    def slot(self, endpoint: Endpoint, *, local: bool) -> AbstractAsyncContextManager[object]:
        """Return the context manager to hold while connecting to an endpoint."""
        if not endpoint.is_registered:
            return nullcontext()
        registrar = self._limits[endpoint.server_uid]
        return registrar.local if local else registrar.remote

    def reserve_retry_time(self, endpoint: Endpoint, now: float) -> float:
        """Reserve a time for a repeated attempt, at or after `now` (seconds)."""
        if not endpoint.is_registered:
            return now
        registrar = self._limits[endpoint.server_uid]
        at = max(registrar.next_retry, now - _RETRY_BURST / _RETRY_RATE)
        registrar.next_retry = at + 1 / _RETRY_RATE
        return max(at, now)


class Subchannel:
    """Connects, and reconnects with backoff; runs in its pool's nursery.

    `watchers` are called when `connection` or `connect_error` changes.
    """

    def __init__(
        self, endpoint: Endpoint, options: ConnectionOptions, dial_limiter: DialLimiter
    ) -> None:
        self.endpoint = endpoint
        self.connection: ClientConnection | None = None
        """Connection that takes new calls, None if there is none."""
        self.streams = _NO_STREAMS
        """Open streams of `connection`, by id."""
        self.health_watch_count = 0
        """Number of `streams` that watch its health, which are no load."""
        self.connect_error = ""
        """Why the last attempt to connect failed, "" after one that succeeded."""
        self.failed_connects = 0
        """Number of attempts to connect that have failed."""
        self.watchers: list[Callable[[], None]] = []
        self.trace_node = channelz_registry.TraceNode()
        channelz_registry.SUBCHANNELS[self.trace_node.channelz_id] = self
        self.past_counters = CallCounters()
        """Counts the calls of connections that have closed."""
        self.options = options
        self._dial_limiter = dial_limiter
        self._is_local = Address.parse(endpoint.address).is_unix
        default_timeouts = _LOCAL_TIMEOUTS if self._is_local else NETWORK_TIMEOUTS
        self._timeouts = default_timeouts if options.timeouts is None else options.timeouts
        self._draining = trio.Event()
        self._connect_scope = trio.CancelScope()
        """Cancel scope of the current attempt to connect, and of the use of its connection."""
        self._connected_at: float | None = None
        """Time at which the current connection was established, None if it is not."""
        self.connections: set[ClientConnection] = set()
        """All connections, those included that only finish their calls."""

    @property
    def connectivity(self) -> str:
        """The state of the connection, by the name that gRPC has for it, in lower case."""
        if self.connection is not None:
            return "ready"
        return "transient-failure" if self.connect_error else "connecting"

    def _notify_watchers(self) -> None:
        for on_change in list(self.watchers):
            on_change()

    def start_draining(self) -> None:
        """Take no more calls; `run` ends once those under way have finished."""
        channelz_registry.SUBCHANNELS.pop(self.trace_node.channelz_id, None)
        self._draining.set()
        self._connect_scope.cancel()
        for connection in list(self.connections):
            connection.start_draining()

    def abort_streams(self, owner: object, error: ConnectionLostError) -> None:
        """Fail the open streams of one channel, on all connections."""
        for connection in list(self.connections):
            for stream in list(connection.streams.values()):
                if stream.owner is owner:
                    connection.abort_stream(stream, error)

    async def run(self) -> None:
        """Keep connected until `start_draining`.

        A connection that takes no more calls is replaced at once, while it finishes those it has.

        Cancellation: closes all connections.
        """
        failures = 0
        async with trio.open_nursery() as nursery:
            timeouts = self._timeouts  # That of the handshake is checked in `_connect`.
            if min(timeouts.frame, timeouts.message, timeouts.keepalive_time) != math.inf:
                nursery.start_soon(check_timeouts_forever, self.connections)
            while not self._draining.is_set():
                failures = 0 if await self._connect(nursery) else failures + 1
                if self._draining.is_set():
                    break
                delay = self.endpoint.reconnect_backoff.delay(failures, RNG)
                await self._backoff_until(trio.current_time() + delay)
                if failures:
                    at = self._dial_limiter.reserve_retry_time(self.endpoint, trio.current_time())
                    await self._backoff_until(at)
            while self.connections:
                await self.connections.copy().pop().run_finished.wait()
            nursery.cancel_scope.cancel()

    async def _backoff_until(self, deadline: float) -> None:
        with trio.move_on_at(deadline):
            await self._draining.wait()

    async def _connect(self, nursery: trio.Nursery) -> bool:
        """Use one connection for as long as it takes calls.

        Returns:
            Whether it lasted or a call succeeded. An endpoint that accepts connections and closes
            them is backed off from like one that refuses them.
        """
        connection, self._connected_at = None, None
        with trio.CancelScope() as self._connect_scope:
            transport = await self._dial()
            if transport is not None:
                connection = self._start_connection(transport, nursery)
                await connection.exhausted.wait()
        is_late = self._connect_scope.cancelled_caught and not self._draining.is_set()
        if connection is None:
            if is_late:
                self._report_connect_error(f"no answer within {_CONNECT_TIMEOUT:g} s")
            return False
        if is_late:
            connection.close_after_handshake_timeout()
        is_useful = False
        if self.connection is connection:
            lasted = 0.0 if self._connected_at is None else trio.current_time() - self._connected_at
            is_useful = lasted >= _MIN_STABLE_TIME or connection.statistics().calls.succeeded > 0
            reason = (
                connection.close_reason
                if connection.closed
                else "the connection is draining or out of stream ids"
            )
            self.trace_node.add_event(f"disconnected: {reason}")
            self.connection, self.streams = None, _NO_STREAMS
            self._notify_watchers()
        connection.start_draining()
        if self._connected_at is None and not self._draining.is_set():
            self._report_connect_error(connection.close_reason)
        return is_useful

    def _start_connection(self, transport: Transport, nursery: trio.Nursery) -> ClientConnection:
        """Start a connection, which has to be established within the handshake timeout."""
        options, timeouts = self.options, self._timeouts
        transport.busy_poll = BusyPoll(options.max_busy_poll)
        connection = ClientConnection(transport, options.limits, timeouts, self._on_established)
        self._connect_scope.deadline = trio.current_time() + timeouts.handshake
        self.connections.add(connection)
        if options.sends_before_settings:
            connection.delay_preface()
            self._use(connection)
        else:
            connection.send_preface()
        nursery.start_soon(self._run_connection, connection)
        return connection

    def _on_established(self, connection: ClientConnection) -> None:
        """Use a connection whose SETTINGS have arrived; called by its read loop."""
        if connection.is_usable and not self._draining.is_set():
            self._connect_scope.deadline = math.inf
            self._connected_at = trio.current_time()
            if self.connection is not connection:
                self._use(connection)

    def _use(self, connection: ClientConnection) -> None:
        self.connection, self.streams, self.connect_error = connection, connection.streams, ""
        self.trace_node.add_event("connected")
        self._notify_watchers()

    async def _dial(self) -> Transport | None:
        try:
            endpoint = self.endpoint
            async with self._dial_limiter.slot(endpoint, local=self._is_local):
                self._connect_scope.deadline = trio.current_time() + _CONNECT_TIMEOUT
                return await self.options.dialer(
                    endpoint.address,
                    self.options.tls or endpoint.tls,
                    endpoint.allowed_server_uids,
                    backlog_timeout=_BACKLOG_TIMEOUT,
                )
        except (OSError, ValueError) as exc:
            reason = getattr(exc, "strerror", None) or str(exc)
            if getattr(exc, "errno", None) in RESOURCE_EXHAUSTED_ERRNOS:
                reason += " in this process (see `ulimit -n`)"
            self._report_connect_error(reason)
            return None

    async def _run_connection(self, connection: ClientConnection) -> None:
        try:
            await connection.run()
        finally:
            self.connections.discard(connection)
            self.past_counters.add_calls(connection.final_calls())
            connection.run_finished.set()

    def _report_connect_error(self, error: str) -> None:
        """Log and trace why calls wait, once for each of equal reasons in a row."""
        self.failed_connects += 1
        if error != self.connect_error:
            warning = channelz_registry.Severity.WARNING
            self.trace_node.add_event(f"connection failed: {error}", warning)
            _log.info("%s: connection failed: %s; retrying", self.endpoint.address, error)
            self.connect_error = error
            self._notify_watchers()
