"""The states of an instance: each listed pair, and nothing else."""

from __future__ import annotations

import itertools

import pytest

from meshtrio.supervise.state import State, follow

LISTED = {
    "pending": "starting stopped",
    "starting": "ready stopping backoff exited failed",
    "ready": "stopping backoff exited failed",
    "stopping": "stopped backoff failed",
    "backoff": "starting stopped",
    "stopped": "",
    "exited": "",
    "failed": "",
}


@pytest.mark.parametrize(("state", "following"), list(itertools.product(State, State)))
def test_pairs(state: State, following: State) -> None:
    if following.value in LISTED[state.value].split():
        assert follow(state, following) is following
    else:
        with pytest.raises(ValueError, match=f"from {state.value} to {following.value}"):
            follow(state, following)
