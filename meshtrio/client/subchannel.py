"""A link: the connection to one endpoint, kept up while any channel of the process uses it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random

import attrs
import trio

from meshtrio.client.dial_limiter import DialLimiter
from meshtrio.discovery.endpoint import (
    LOCAL_RECONNECT_BACKOFF,
    RECONNECT_BACKOFF,
    REGISTERED_RECONNECT_BACKOFF,
    Endpoint,
)
from meshtrio.errors import RESOURCE_EXHAUSTED_ERRNOS
from meshtrio.http2.limits import Limits
from meshtrio.rpc import channelz_registry
from meshtrio.rpc.client_connection import ClientConnection
from meshtrio.rpc.stats import CallCounters
from meshtrio.rpc.stream import Stream
from meshtrio.rpc.timeouts import NETWORK_TIMEOUTS, Timeouts
from meshtrio.transport.dial import ClientTls, dial
from meshtrio.transport.transport import Transport
from meshtrio.util.address import Address
from meshtrio.util.concurrency import sleep_until_tick

_log = logging.getLogger("meshtrio.rpc")

_TIMEOUT_CHECK_INTERVAL = 1.0
_CONNECT_TIMEOUT = 10.0
"""Seconds from the first packet to a connection."""
_BACKLOG_TIMEOUT = 5.0
"""Seconds that a server whose backlog is full has to accept connections."""
_MIN_STABLE_TIME = 5.0
"""Seconds after which a connection has been of use, even without a call."""
_SETTINGS_TIMEOUT = 20.0
"""Seconds a server has to send its SETTINGS."""


@attrs.frozen
class ConnectionOptions:
    """How a channel speaks to its endpoints: channels that do so alike share their links."""

    limits: Limits | None = None
    tls: ClientTls | None = None
    """For all endpoints; by default it is theirs to say."""
    timeouts: Timeouts | None = None
    """By default `Timeouts()`, and across a network a peer that is silent is asked why."""

    def timeouts_for(self, endpoint: Endpoint) -> Timeouts:
        if self.timeouts is not None:
            return self.timeouts
        return _LOCAL_TIMEOUTS if Address.parse(endpoint.address).is_unix else NETWORK_TIMEOUTS


_LOCAL_TIMEOUTS = Timeouts()
_NO_STREAMS: dict[int, Stream] = {}


class Subchannel:
    """Runs in its pool's nursery; its users are called when its readiness may have changed."""

    def __init__(
        self, endpoint: Endpoint, options: ConnectionOptions, dial_limiter: DialLimiter
    ) -> None:
        self.endpoint = endpoint
        self.connection: ClientConnection | None = None
        """The one that takes calls now."""
        self.streams = _NO_STREAMS
        """The calls it has."""
        self.health_watch_count = 0
        """Of these, watches of its health, which are no load."""
        self.connect_error = ""
        """Why the last attempt to connect failed, "" once one succeeded."""
        self.watchers: list[Callable[[], None]] = []
        self.trace_node = channelz_registry.TraceNode()
        channelz_registry.SUBCHANNELS.add(self.trace_node.channelz_id, self)
        self.past_counters = CallCounters()
        """Calls of connections that are over."""
        self._options = options
        self._timeouts = options.timeouts_for(endpoint)
        self._dial_limiter = dial_limiter
        self._is_local = Address.parse(endpoint.address).is_unix
        self._backoff = LOCAL_RECONNECT_BACKOFF if self._is_local else RECONNECT_BACKOFF
        if endpoint.is_registered:
            self._backoff = REGISTERED_RECONNECT_BACKOFF
        self._rng = Random()
        self._draining = trio.Event()
        self._dial_scope = trio.CancelScope()
        self._connections: set[ClientConnection] = set()

    @property
    def connections(self) -> tuple[ClientConnection, ...]:
        """Those that still finish their calls, too."""
        return tuple(self._connections)

    @property
    def is_connected(self) -> bool:
        return self.connection is not None and self.connection.is_usable

    def _notify_watchers(self) -> None:
        for user in list(self.watchers):
            user()

    @contextmanager
    def count_health_watch(self) -> Iterator[None]:
        """A call of the block is one of the watches."""
        self.health_watch_count += 1
        try:
            yield
        finally:
            self.health_watch_count -= 1

    def start_draining(self) -> None:
        """Nobody uses it any more: take no calls, let those under way finish, then end."""
        channelz_registry.SUBCHANNELS.remove(self.trace_node.channelz_id)
        self._draining.set()
        self._dial_scope.cancel()
        for connection in list(self._connections):
            connection.start_draining()

    def streams_owned_by(self, owner: object) -> list[tuple[ClientConnection, Stream]]:
        """The calls that one channel has here, on connections that take no new ones too."""
        return [
            (connection, stream)
            for connection in self._connections
            for stream in list(connection.streams.values())
            if stream.owner is owner
        ]

    async def run(self) -> None:
        """Connect, and connect again with backoff, until `drop` is called or this is cancelled.

        A connection that takes no new calls is replaced at once; it finishes those it has beside
        its successor.
        """
        failures = 0
        async with trio.open_nursery() as nursery:
            if self._timeouts.is_keepalive_enabled:
                nursery.start_soon(self._check_timeouts_loop)
            while not self._draining.is_set():
                failures = 0 if await self._connect(nursery) else failures + 1
                delay = self._backoff.delay(max(failures, 1), self._rng)
                await self._backoff_until(trio.current_time() + delay)
                if failures:
                    at = self._dial_limiter.reserve_retry_time(self.endpoint, trio.current_time())
                    await self._backoff_until(at)
            while self._connections:
                await self._connections.copy().pop().run_finished.wait()
            nursery.cancel_scope.cancel()

    async def _backoff_until(self, deadline: float) -> None:
        with trio.move_on_at(deadline):
            await self._draining.wait()

    async def _connect(self, nursery: trio.Nursery) -> bool:
        """Use one connection as long as it takes calls; False if it was of no use.

        It was if it lasted or a call succeeded: an endpoint that accepts connections only to end
        them is to be backed off from like one that refuses them.
        """
        transport = await self._dial()
        if transport is None:
            return False
        connection = ClientConnection(transport, self._options.limits, self._timeouts)
        self._connections.add(connection)
        await nursery.start(self._run_connection, connection)
        with trio.move_on_after(_SETTINGS_TIMEOUT) as waiting:
            await connection.established.wait()
        if waiting.cancelled_caught:
            connection.close("the peer accepted a connection and did not speak HTTP/2")
        established, useful = connection.is_usable, False
        if established and not self._draining.is_set():
            self.connection, self.streams, self.connect_error = connection, connection.streams, ""
            self.trace_node.add_event("connected")
            self._notify_watchers()
            since = trio.current_time()
            await connection.exhausted.wait()
            lasted = trio.current_time() - since >= _MIN_STABLE_TIME
            useful = lasted or connection.statistics().calls.succeeded > 0
            self._trace_disconnect(connection)
            self.connection, self.streams = None, _NO_STREAMS
            self._notify_watchers()
        connection.start_draining()
        if not established:
            self._report_connect_error(connection.close_reason)
        return useful

    def _trace_disconnect(self, connection: ClientConnection) -> None:
        why = connection.close_reason if connection.closed else "it takes no more calls"
        self.trace_node.add_event(f"its connection is given up: {why}")

    async def _dial(self) -> Transport | None:
        with trio.CancelScope() as self._dial_scope:
            try:
                endpoint = self.endpoint
                async with self._dial_limiter.slot(endpoint, local=self._is_local):
                    self._dial_scope.deadline = trio.current_time() + _CONNECT_TIMEOUT
                    return await dial(
                        endpoint.address,
                        self._options.tls or endpoint.tls,
                        endpoint.allowed_server_uids,
                        backlog_timeout=_BACKLOG_TIMEOUT,
                    )
            except (OSError, ValueError) as exc:
                reason = getattr(exc, "strerror", None) or str(exc)
                if getattr(exc, "errno", None) in RESOURCE_EXHAUSTED_ERRNOS:
                    reason += " in this process (see `ulimit -n`)"
                self._report_connect_error(reason)
        if self._dial_scope.cancelled_caught and not self._draining.is_set():
            self._report_connect_error(f"it did not answer within {_CONNECT_TIMEOUT:g} s")
        return None

    async def _run_connection(
        self,
        connection: ClientConnection,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        try:
            await connection.run(task_status=task_status)
        finally:
            self._connections.discard(connection)
            self.past_counters.add_calls(connection.final_calls())
            connection.run_finished.set()

    def _report_connect_error(self, error: str) -> None:
        """Tell why calls wait, once for each reason in a row."""
        if error != self.connect_error:
            self.trace_node.add_event(
                f"cannot be used: {error}", channelz_registry.Severity.WARNING
            )
            _log.info("%s cannot be used: %s; trying again", self.endpoint.address, error)
            self.connect_error = error
            self._notify_watchers()

    async def _check_timeouts_loop(self) -> None:
        due = trio.current_time() + _TIMEOUT_CHECK_INTERVAL
        while True:
            await sleep_until_tick(_TIMEOUT_CHECK_INTERVAL)
            now = trio.current_time()
            # Where this process stood still, what servers have sent is read first.
            if now < due + _TIMEOUT_CHECK_INTERVAL:
                for connection in list(self._connections):
                    connection.check_timeouts(now)
            due = now + _TIMEOUT_CHECK_INTERVAL
