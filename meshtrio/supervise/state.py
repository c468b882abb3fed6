"""Where an instance is in its life: the states, and which may follow which."""

from __future__ import annotations

from enum import Enum


class State(Enum):
    """A state of one instance of a plugin."""

    PENDING = "pending"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    BACKOFF = "backoff"
    STOPPED = "stopped"
    EXITED = "exited"
    FAILED = "failed"


_S = State
_FOLLOWING: dict[State, frozenset[State]] = {
    _S.PENDING: frozenset({_S.STARTING, _S.STOPPED}),
    _S.STARTING: frozenset({_S.READY, _S.STOPPING, _S.BACKOFF, _S.EXITED, _S.FAILED}),
    _S.READY: frozenset({_S.STOPPING, _S.BACKOFF, _S.EXITED, _S.FAILED}),
    _S.STOPPING: frozenset({_S.STOPPED, _S.BACKOFF, _S.FAILED}),
    _S.BACKOFF: frozenset({_S.STARTING, _S.STOPPED}),
    _S.STOPPED: frozenset(),
    _S.EXITED: frozenset(),
    _S.FAILED: frozenset(),
}


def follow(state: State, following: State) -> State:
    """Check a change of state, give the new one. Raises ValueError for an unlisted pair."""
    if following not in _FOLLOWING[state]:
        raise ValueError(f"an instance cannot go from {state.value} to {following.value}")
    return following
