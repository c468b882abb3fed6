"""The table of a proxied call's states: what ends a call, from which states."""

from __future__ import annotations

from meshtrio.gateway.call_state import TRANSITIONS, CallEvent, CallState


def test_a_call_can_be_reset_by_its_client_in_every_state_but_the_last() -> None:
    sources = {state for state, event in TRANSITIONS if event is CallEvent.DOWNSTREAM_RESET}
    assert sources == set(CallState) - {CallState.CLOSED}


def test_a_status_is_queued_once() -> None:
    sources = {state for state, event in TRANSITIONS if event is CallEvent.STATUS_QUEUED}
    assert sources == set(CallState) - {CallState.FLUSHING, CallState.CLOSED}


def test_nothing_follows_closed() -> None:
    assert CallState.CLOSED not in {state for state, _ in TRANSITIONS}


def test_every_state_is_reached_and_every_event_used() -> None:
    assert {*TRANSITIONS.values()} == set(CallState)
    assert {event for _, event in TRANSITIONS} == set(CallEvent)


def test_only_a_refusal_leads_back() -> None:
    back = {event for (state, event), following in TRANSITIONS.items() if following < state}
    assert back == {CallEvent.REFUSED}
