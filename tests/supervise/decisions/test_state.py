"""The states of a life: each listed pair, and nothing else."""

from __future__ import annotations

import itertools

import pytest

from meshtrio.supervise.decisions.state import State, follow

LISTED = {
    "pending": "starting ended",
    "starting": "ready stopping ended",
    "ready": "unready stopping ended",
    "unready": "ready stopping ended",
    "stopping": "ended",
}


@pytest.mark.parametrize(("state", "following"), list(itertools.product(State, State)))
def test_pairs(state: State, following: State) -> None:
    if following.value in LISTED.get(state.value, "").split():
        assert follow(state, following) is following
    else:
        with pytest.raises(ValueError, match=f"from {state.value} to {following.value}"):
            follow(state, following)
