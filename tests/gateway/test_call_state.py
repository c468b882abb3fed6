"""The table of a proxied call's states: what ends a call, from which states."""

from __future__ import annotations

from meshtrio.gateway import call_state
from meshtrio.gateway.call_state import CallState

EVENTS = {name: event for name, event in vars(call_state).items() if name.startswith("ON_")}


def test_a_call_can_be_reset_by_its_client_in_every_state_but_the_last() -> None:
    assert set(call_state.ON_DOWNSTREAM_RESET) == set(CallState) - {CallState.CLOSED}


def test_a_status_is_queued_once() -> None:
    ended = {CallState.FLUSHING, CallState.CLOSED}
    assert set(call_state.ON_STATUS_QUEUED) == set(CallState) - ended


def test_nothing_follows_closed() -> None:
    assert not [name for name, event in EVENTS.items() if CallState.CLOSED in event]


def test_every_state_is_reached() -> None:
    assert {state for event in EVENTS.values() for state in event.values()} == set(CallState)


def test_only_a_refusal_leads_back() -> None:
    back = {name for name, event in EVENTS.items() for before in event if event[before] < before}
    assert back == {"ON_REFUSED"}
