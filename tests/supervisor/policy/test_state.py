"""The states of a run and the phases of an instance: each listed pair, and nothing else."""

from __future__ import annotations

import itertools

import pytest

from meshtrio.supervisor.policy.state import (
    InstanceEvent,
    InstancePhase,
    InstanceState,
    next_phase,
    next_run_state,
)

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
def test_states_of_a_run(state: InstanceState, following: InstanceState) -> None:
    if following.value in LISTED.get(state.value, "").split():
        assert next_run_state(state, following) is following
    else:
        with pytest.raises(ValueError, match=f"from {state.value} to {following.value}"):
            next_run_state(state, following)


PHASES = {
    # phase            START            STOP         RESTART          REPLACE
    "waiting":        ("waiting",        "stopped",     "waiting",        ""),
    "idle":           ("waiting",        "stopped",     "idle",           ""),
    "idling":         ("restarting",     "stopping",    "idling",         ""),
    "backoff":        ("backoff",        "stopped",     "backoff",        ""),
    "running":        ("running",        "stop queued", "restart queued", "replace queued"),
    "replace queued": ("replace queued", "stop queued", "restart queued", "replace queued"),
    "replacing":      ("replacing",      "stop queued", "restart queued", "replacing"),
    "stop queued":    ("restart queued", "stop queued", "stop queued",    ""),
    "stopping":       ("restarting",     "stopping",    "stopping",       ""),
    "restart queued": ("restart queued", "stop queued", "restart queued", ""),
    "restarting":     ("restarting",     "stopping",    "restarting",     ""),
    "stopped":        ("waiting",        "stopped",     "stopped",        ""),
    "exited":         ("waiting",        "exited",      "exited",         ""),
    "failed":         ("waiting",        "failed",      "backoff",        ""),
}  # fmt: skip
"""What each request leads to."""
CARRIED_OUT = {
    ("idle", "demand"): "waiting",
    ("idling", "demand"): "restarting",
    ("idling", "all exited"): "idle",
    ("running", "idle"): "idling",
    ("running", "await demand"): "idle",
    ("replace queued", "await demand"): "idle",
    ("waiting", "launch"): "running",
    ("backoff", "launch"): "running",
    ("running", "retry"): "backoff",
    ("running", "complete"): "exited",
    ("running", "fail"): "failed",
    ("replace queued", "launch"): "replacing",
    ("replace queued", "retry"): "backoff",
    ("replace queued", "complete"): "exited",
    ("replace queued", "fail"): "failed",
    ("replacing", "promote"): "running",
    ("replacing", "abandon"): "running",
    ("stop queued", "terminate"): "stopping",
    ("stop queued", "all exited"): "stopped",
    ("stopping", "all exited"): "stopped",
    ("restart queued", "terminate"): "restarting",
    ("restart queued", "all exited"): "waiting",
    ("restarting", "all exited"): "waiting",
}
REQUESTS = ("start", "stop", "restart", "replace")


def test_the_tables_name_all_phases() -> None:
    assert set(PHASES) == {phase.value for phase in InstancePhase}
    assert {event for _, event in CARRIED_OUT} | set(REQUESTS) == {e.value for e in InstanceEvent}


@pytest.mark.parametrize(
    ("phase", "event"), list(itertools.product(InstancePhase, InstanceEvent)), ids=str
)
def test_phases_of_an_instance(phase: InstancePhase, event: InstanceEvent) -> None:
    requested = dict(zip(REQUESTS, PHASES[phase.value], strict=True))
    expected = requested.get(event.value) or CARRIED_OUT.get((phase.value, event.value))
    if event is InstanceEvent.DEMAND:
        expected = expected or phase.value
    if expected is not None:
        assert next_phase(phase, event) is InstancePhase(expected)
    else:
        with pytest.raises(ValueError, match=f"that is {phase.value} cannot {event.value}"):
            next_phase(phase, event)


def test_each_phase_is_of_one_kind() -> None:
    """Waiting, idle, with a run that serves, about to be left, or final."""
    serving = {InstancePhase.RUNNING, InstancePhase.REPLACE_QUEUED, InstancePhase.REPLACING}
    for phase in InstancePhase:
        is_idle = phase is InstancePhase.IDLE
        kinds = (phase.is_waiting, is_idle, phase in serving, phase.is_leaving, phase.is_final)
        assert sum(kinds) == 1
        assert phase.is_leaving or not (phase.is_stop_queued or phase.is_restarting)
