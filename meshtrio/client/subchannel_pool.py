"""The pool of a trio run: subchannels and resolvers shared by its channels.

The pool starts with the first channel of a trio run and ends with the last. Its tasks belong to all
of them, so that none of their nurseries can own them; they are system tasks, which the pool cancels
and waits for when it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager, nullcontext
from contextvars import Context, ContextVar
from typing import Self

import trio
import trio.lowlevel

from meshtrio.client.subchannel import ConnectionOptions, DialLimiter, Subchannel
from meshtrio.discovery.endpoint import Endpoint, ServiceState

_log = logging.getLogger("meshtrio.rpc")

_RESTART_DELAY = 1.0
"""Seconds after which a task that crashed is started again."""


StateCallback = Callable[[ServiceState], None]
Resolver = Callable[[Callable[[ServiceState | None], None]], Awaitable[None]]
"""Calls its argument with each state of a service, until it is cancelled.

If its first attempt fails it calls it with None, and continues.
"""


class SharedWatch:
    """One run of a resolver, shared by all channels that use it."""

    def __init__(self) -> None:
        self.callbacks: list[StateCallback] = []
        self.cancel_scope = trio.CancelScope()
        self._latest_state: ServiceState | None = None
        self._has_reported = trio.Event()

    def add(self, on_update: StateCallback) -> None:
        """Call `on_update` with the latest state, if there is one, and with each later one."""
        self.callbacks.append(on_update)
        if self._latest_state is not None:
            on_update(self._latest_state)

    async def run(self, resolver: Resolver) -> None:
        """Run the resolver, until `cancel_scope` is cancelled."""
        if self.callbacks:
            try:
                with trio.CancelScope() as self.cancel_scope:
                    await resolver(self._publish)
            finally:
                self._has_reported.set()

    async def wait_first_report(self) -> bool:
        """Wait for the resolver's first report; return whether it was a state."""
        if not self._has_reported.is_set():
            await self._has_reported.wait()
        return self._latest_state is not None

    def _publish(self, state: ServiceState | None) -> None:
        self._has_reported.set()
        if state is not None:
            self._latest_state = state
            for on_update in list(self.callbacks):
                on_update(state)


class SubchannelPool:
    """Owns the subchannels and resolver runs of all channels, for `async with`."""

    def __init__(self, restart_delay: float = _RESTART_DELAY) -> None:
        self._restart_delay = restart_delay
        self._subchannels: dict[tuple[Endpoint, ConnectionOptions], Subchannel] = {}
        self._dial_limiter = DialLimiter()
        self._watches: dict[Hashable, SharedWatch] = {}
        self._user_count = 0
        self._tasks: set[trio.CancelScope] = set()
        """The cancel scopes of the tasks that run."""
        self._is_closing = False
        self._tasks_finished = trio.Event()
        """Set when the last task has ended after the pool was closed."""

    # -- subchannels -------------------------------------------------------------------------

    def acquire_subchannel(
        self, endpoint: Endpoint, options: ConnectionOptions, on_change: Callable[[], None]
    ) -> Subchannel:
        """Return the subchannel to an endpoint, to be used until `release_subchannel`.

        `on_change` is called when its connection or error changes.
        """
        key = endpoint.connection_key
        subchannel = self._subchannels.get((key, options))
        if subchannel is None:
            subchannel = Subchannel(key, options, self._dial_limiter)
            self._subchannels[key, options] = subchannel
            self._start_task(subchannel.run)
        subchannel.watchers.append(on_change)
        return subchannel

    def release_subchannel(self, subchannel: Subchannel, on_change: Callable[[], None]) -> None:
        """Stop using a subchannel; without users it ends, once calls under way have finished."""
        subchannel.watchers.remove(on_change)
        if not subchannel.watchers:
            del self._subchannels[subchannel.endpoint, subchannel.options]
            subchannel.start_draining()

    # -- resolvers ---------------------------------------------------------------------------

    def subscribe(
        self, key: Hashable, resolver: Resolver, on_update: StateCallback
    ) -> SharedWatch | None:
        """Call `on_update` with each state that the resolver reports; it runs once for each key.

        Returns:
            The run that was started, None if another subscriber had started it.
        """
        watch = self._watches.get(key)
        is_new = watch is None
        if watch is None:
            watch = self._watches[key] = SharedWatch()
            self._start_task(watch.run, resolver)
        watch.add(on_update)
        return watch if is_new else None

    def unsubscribe(self, key: Hashable, on_update: StateCallback) -> None:
        """Undo `subscribe`; the resolver is cancelled with its last subscriber."""
        watch = self._watches[key]
        watch.callbacks.remove(on_update)
        if not watch.callbacks:
            watch.cancel_scope.cancel()
            del self._watches[key]

    # -- tasks -------------------------------------------------------------------------------

    def _start_task(self, task: Callable[..., Awaitable[None]], *args: object) -> None:
        # Not in a nursery: a system task with a nursery would have to start first.
        scope = trio.CancelScope()
        self._tasks.add(scope)
        if self._is_closing:
            scope.cancel()
        trio.lowlevel.spawn_system_task(
            self._run_with_restart, scope, task, *args, name=task, context=Context()
        )

    async def _run_with_restart(
        self, scope: trio.CancelScope, task: Callable[..., Awaitable[None]], *args: object
    ) -> None:
        _in_pool_task.set(self)
        try:
            with scope:
                while True:
                    try:
                        await task(*args)
                        return
                    except Exception:
                        # A bug. It fails the calls of this subchannel, and must not affect others.
                        _log.exception("a task of the connection pool crashed; restarting it")
                    await trio.sleep(self._restart_delay)
        finally:
            self._tasks.discard(scope)
            if self._is_closing and not self._tasks:
                self._tasks_finished.set()

    async def __aenter__(self) -> Self:
        self._user_count += 1
        return self

    async def __aexit__(self, *_: object) -> None:
        self._user_count -= 1
        if self._user_count:
            return
        _current_pool.set(None)
        self._is_closing = True
        if not self._tasks:
            return
        for scope in list(self._tasks):
            scope.cancel()
        with trio.CancelScope(shield=True):
            await self._tasks_finished.wait()


_current_pool = trio.lowlevel.RunVar[SubchannelPool | None]("meshtrio pool", None)
_in_pool_task: ContextVar[SubchannelPool | None] = ContextVar("meshtrio pool", default=None)
"""Set in the pool's own tasks: a resolver may use a channel, which must not keep the pool alive."""


def open_shared_pool() -> AbstractAsyncContextManager[SubchannelPool]:
    """Use the pool of this trio run during the block."""
    own_pool = _in_pool_task.get()
    if own_pool is not None:
        return nullcontext(own_pool)
    pool = _current_pool.get()
    if pool is None:
        pool = SubchannelPool()
        _current_pool.set(pool)
    return pool
