"""Where an instance is in its life: the states, and which may follow which."""

from __future__ import annotations

from enum import Enum


class InstanceState(Enum):
    """A state of one instance of a plugin."""

    PENDING = "pending"
    """Not started yet: it waits for others, or for its turn."""
    STARTING = "starting"
    READY = "ready"
    UNREADY = "unready"
    """It was ready and says NOT_SERVING now."""
    STOPPING = "stopping"
    ENDED = "ended"
    """A life that is over; the instance goes on to one of the following."""
    BACKOFF = "backoff"
    STOPPED = "stopped"
    EXITED = "exited"
    FAILED = "failed"


_S = InstanceState
_TRANSITIONS: dict[InstanceState, frozenset[InstanceState]] = {
    _S.PENDING: frozenset({_S.STARTING, _S.ENDED}),
    _S.STARTING: frozenset({_S.READY, _S.STOPPING, _S.ENDED}),
    _S.READY: frozenset({_S.UNREADY, _S.STOPPING, _S.ENDED}),
    _S.UNREADY: frozenset({_S.READY, _S.STOPPING, _S.ENDED}),
    _S.STOPPING: frozenset({_S.ENDED}),
    _S.ENDED: frozenset(),
}
IDLE_STATES = frozenset({_S.PENDING, _S.BACKOFF, _S.STOPPED, _S.EXITED, _S.FAILED})
"""Of an instance that has no process."""


def transition(state: InstanceState, new_state: InstanceState) -> InstanceState:
    """Check a life's change of state, give the new one. Raises ValueError for an unlisted pair."""
    if new_state not in _TRANSITIONS.get(state, ()):
        raise ValueError(f"a process cannot go from {state.value} to {new_state.value}")
    return new_state
