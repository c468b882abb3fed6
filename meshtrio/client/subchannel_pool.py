"""What the channels of a process share: links to endpoints, and news of services.

The pool begins with the first channel of a trio run and ends with the last: its tasks belong to all
of them, so none of their nurseries can own it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Self

import trio
import trio.lowlevel

from meshtrio.client.dial_limiter import DialLimiter
from meshtrio.client.subchannel import ConnectionOptions, Subchannel
from meshtrio.discovery.endpoint import Endpoint
from meshtrio.discovery.service_state import ServiceState
from meshtrio.util.concurrency import start_soon_without_context

_log = logging.getLogger("meshtrio.rpc")

_RESTART_DELAY = 1.0

StateCallback = Callable[[ServiceState], None]
Resolver = Callable[[StateCallback], Awaitable[None]]
"""Runs for as long as a channel needs it, handing it each state of its service."""


class SubchannelPool:
    def __init__(self) -> None:
        self._subchannels: dict[tuple[Endpoint, ConnectionOptions], Subchannel] = {}
        self._dial_limiter = DialLimiter()
        self._watches: dict[Hashable, SharedWatch] = {}
        self._user_count = 0
        self._nursery: trio.Nursery | None = None
        self._started = trio.Event()
        self._stopped = trio.Event()

    # -- links -------------------------------------------------------------------------------

    def acquire_subchannel(
        self, endpoint: Endpoint, options: ConnectionOptions, on_change: Callable[[], None]
    ) -> Subchannel:
        """Use the link to an endpoint, until `unlink`; `changed` is called as `Subchannel` says."""
        link = self._subchannels.get((endpoint, options))
        if link is None:
            link = self._subchannels[endpoint, options] = Subchannel(
                endpoint, options, self._dial_limiter
            )
            self._start_task(link.run)
        link.watchers.append(on_change)
        return link

    def release_subchannel(
        self, subchannel: Subchannel, options: ConnectionOptions, on_change: Callable[[], None]
    ) -> None:
        """Use it no more; calls under way on it may finish."""
        subchannel.watchers.remove(on_change)
        if not subchannel.watchers:
            del self._subchannels[subchannel.endpoint, options]
            subchannel.start_draining()

    # -- news --------------------------------------------------------------------------------

    def subscribe(self, key: Hashable, resolver: Resolver, on_update: StateCallback) -> None:
        """Have `update` called with each state that `feed` gives, which runs once for each key."""
        news = self._watches.get(key)
        if news is None:
            news = self._watches[key] = SharedWatch()
            self._start_task(news.run, resolver)
        news.add(on_update)

    def unsubscribe(self, key: Hashable, on_update: StateCallback) -> None:
        news = self._watches[key]
        news.remove(on_update)
        if not news.callbacks:
            news.cancel_scope.cancel()
            del self._watches[key]

    # -- life --------------------------------------------------------------------------------

    def _start_task(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        assert self._nursery is not None
        start_soon_without_context(self._nursery, self._run_with_restart, task, *args)

    async def _run_with_restart(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        _in_pool_task.set(self)
        while True:
            try:
                await task(*args)
                return
            except Exception:
                # A bug of ours; it may cost what this link had under way, and nobody else.
                _log.exception("a task of the connection pool failed; starting it again")
            await trio.sleep(_RESTART_DELAY)

    async def _run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._started.set()
                await trio.sleep_forever()
        finally:
            self._stopped.set()

    async def __aenter__(self) -> Self:
        self._user_count += 1
        if self._user_count == 1:
            trio.lowlevel.spawn_system_task(self._run)
        with trio.CancelScope(shield=True):
            await self._started.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._user_count -= 1
        if self._user_count:
            return
        _current_pool.set(None)
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await self._stopped.wait()


class SharedWatch:
    """The states of one service, to whoever wants them."""

    def __init__(self) -> None:
        self.callbacks: list[StateCallback] = []
        self.cancel_scope = trio.CancelScope()
        self._latest_state: ServiceState | None = None

    def add(self, on_update: StateCallback) -> None:
        self.callbacks.append(on_update)
        if self._latest_state is not None:
            on_update(self._latest_state)

    def remove(self, on_update: StateCallback) -> None:
        self.callbacks.remove(on_update)

    async def run(self, resolver: Resolver) -> None:
        if self.callbacks:
            with trio.CancelScope() as self.cancel_scope:
                await resolver(self._publish)

    def _publish(self, state: ServiceState) -> None:
        self._latest_state = state
        for update in list(self.callbacks):
            update(state)


_current_pool: trio.lowlevel.RunVar[SubchannelPool | None] = trio.lowlevel.RunVar(
    "meshtrio pool", None
)
_in_pool_task: ContextVar[SubchannelPool | None] = ContextVar("meshtrio pool", default=None)
"""In the pool's own tasks: a feed may use a channel, which must not keep the pool alive."""


@asynccontextmanager
async def open_shared_pool() -> AsyncIterator[SubchannelPool]:
    """The pool of this trio run, for the block."""
    own = _in_pool_task.get()
    if own is not None:
        yield own
        return
    pool = _current_pool.get()
    if pool is None:
        pool = SubchannelPool()
        _current_pool.set(pool)
    async with pool:
        yield pool
