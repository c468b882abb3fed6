"""The states of a life: each listed pair, and nothing else."""

from __future__ import annotations

import itertools

import pytest

from meshtrio.supervisor.policy.state import InstanceState, transition

LISTED = {
    "pending": "starting ended",
    "starting": "ready stopping ended",
    "ready": "unready stopping ended",
    "unready": "ready stopping ended",
    "stopping": "ended",
}


@pytest.mark.parametrize(
    ("state", "following"), list(itertools.product(InstanceState, InstanceState))
)
def test_pairs(state: InstanceState, following: InstanceState) -> None:
    if following.value in LISTED.get(state.value, "").split():
        assert transition(state, following) is following
    else:
        with pytest.raises(ValueError, match=f"from {state.value} to {following.value}"):
            transition(state, following)
