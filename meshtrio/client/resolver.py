"""Resolvers: the source of a channel's endpoints and service config.

A resolver runs for as long as a channel uses it. Channels of the process that use the same one
share a run of it (`SharedWatch`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from meshtrio.discovery.endpoint import ServiceState

StateCallback = Callable[[ServiceState], None]
Resolver = Callable[[StateCallback], Awaitable[None]]
"""Calls its argument with each state of a service, until it is cancelled."""


class SharedWatch:
    """One run of a resolver, shared by all channels that use it."""

    def __init__(self) -> None:
        self.callbacks: list[StateCallback] = []
        self.cancel_scope = trio.CancelScope()
        self._latest_state: ServiceState | None = None

    def add(self, on_update: StateCallback) -> None:
        """Call `on_update` with the latest state, if there is one, and with each later one."""
        self.callbacks.append(on_update)
        if self._latest_state is not None:
            on_update(self._latest_state)

    async def run(self, resolver: Resolver) -> None:
        """Run the resolver, until `cancel_scope` is cancelled."""
        if self.callbacks:
            with trio.CancelScope() as self.cancel_scope:
                await resolver(self._publish)

    def _publish(self, state: ServiceState) -> None:
        self._latest_state = state
        for on_update in list(self.callbacks):
            on_update(state)
