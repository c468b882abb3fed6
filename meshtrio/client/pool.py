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

from meshtrio.client.dialing import DialLimiter
from meshtrio.client.endpoint import Endpoint, ServiceState
from meshtrio.client.link import Link, Manner
from meshtrio.structured import start_for_all

_log = logging.getLogger("meshtrio.rpc")

_AFTER_A_BUG = 1.0

Update = Callable[[ServiceState], None]
Feed = Callable[[Update], Awaitable[None]]
"""Runs for as long as a channel needs it, handing it each state of its service."""


class Pool:
    def __init__(self) -> None:
        self._links: dict[tuple[Endpoint, Manner], Link] = {}
        self._dials = DialLimiter()
        self._news: dict[Hashable, News] = {}
        self._users = 0
        self._nursery: trio.Nursery | None = None
        self._open = trio.Event()
        self._ended = trio.Event()

    # -- links -------------------------------------------------------------------------------

    def link(self, endpoint: Endpoint, manner: Manner, changed: Callable[[], None]) -> Link:
        """Use the link to an endpoint, until `unlink`; `changed` is called as `Link` says."""
        link = self._links.get((endpoint, manner))
        if link is None:
            link = self._links[endpoint, manner] = Link(endpoint, manner, self._dials)
            self._start(link.run)
        link.users.append(changed)
        return link

    def unlink(self, link: Link, manner: Manner, changed: Callable[[], None]) -> None:
        """Use it no more; calls under way on it may finish."""
        link.users.remove(changed)
        if not link.users:
            del self._links[link.endpoint, manner]
            link.drop()

    # -- news --------------------------------------------------------------------------------

    def subscribe(self, key: Hashable, feed: Feed, update: Update) -> None:
        """Have `update` called with each state that `feed` gives, which runs once for each key."""
        news = self._news.get(key)
        if news is None:
            news = self._news[key] = News()
            self._start(news.run, feed)
        news.add(update)

    def unsubscribe(self, key: Hashable, update: Update) -> None:
        news = self._news[key]
        news.remove(update)
        if not news.updates:
            news.scope.cancel()
            del self._news[key]

    # -- life --------------------------------------------------------------------------------

    def _start(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        assert self._nursery is not None
        start_for_all(self._nursery, self._guarded, task, *args)

    async def _guarded(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        _inside.set(self)
        while True:
            try:
                await task(*args)
                return
            except Exception:
                # A bug of ours; it may cost what this link had under way, and nobody else.
                _log.exception("a task of the connection pool failed; starting it again")
            await trio.sleep(_AFTER_A_BUG)

    async def _run(self) -> None:
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._open.set()
                await trio.sleep_forever()
        finally:
            self._ended.set()

    async def __aenter__(self) -> Self:
        self._users += 1
        if self._users == 1:
            trio.lowlevel.spawn_system_task(self._run)
        with trio.CancelScope(shield=True):
            await self._open.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._users -= 1
        if self._users:
            return
        _current.set(None)
        assert self._nursery is not None
        self._nursery.cancel_scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()


class News:
    """The states of one service, to whoever wants them."""

    def __init__(self) -> None:
        self.updates: list[Update] = []
        self.scope = trio.CancelScope()
        self._latest: ServiceState | None = None

    def add(self, update: Update) -> None:
        self.updates.append(update)
        if self._latest is not None:
            update(self._latest)

    def remove(self, update: Update) -> None:
        self.updates.remove(update)

    async def run(self, feed: Feed) -> None:
        if self.updates:
            with trio.CancelScope() as self.scope:
                await feed(self._take)

    def _take(self, state: ServiceState) -> None:
        self._latest = state
        for update in list(self.updates):
            update(state)


_current: trio.lowlevel.RunVar[Pool | None] = trio.lowlevel.RunVar("meshtrio pool", None)
_inside: ContextVar[Pool | None] = ContextVar("meshtrio pool", default=None)
"""In the pool's own tasks: a feed may use a channel, which must not keep the pool alive."""


@asynccontextmanager
async def shared_pool() -> AsyncIterator[Pool]:
    """The pool of this trio run, for the block."""
    own = _inside.get()
    if own is not None:
        yield own
        return
    pool = _current.get()
    if pool is None:
        pool = Pool()
        _current.set(pool)
    async with pool:
        yield pool
