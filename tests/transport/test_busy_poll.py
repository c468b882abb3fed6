"""When looking again before going to sleep pays."""

from __future__ import annotations

import pytest

from meshtrio.transport.transport import MAX_SPIN, BusyPoll

SHORT, LONG = MAX_SPIN / 2, MAX_SPIN * 50


def after(*waits: float) -> BusyPoll:
    """Return a BusyPoll that has recorded these waits."""
    found = BusyPoll()
    for seconds in waits:
        found.record_wait(seconds, polled=found.is_worthwhile)
    return found


def test_it_has_to_be_earned() -> None:
    assert not BusyPoll().is_worthwhile
    assert not after(*[SHORT] * 10).is_worthwhile
    assert after(*[SHORT] * 17).is_worthwhile
    assert after(*[MAX_SPIN] * 17).is_worthwhile


def test_who_is_never_quick_never_pays() -> None:
    assert not after(*[LONG] * 1000).is_worthwhile
    assert not after(*[SHORT, LONG, LONG] * 10, *[LONG] * 1000).is_worthwhile


def test_a_rest_now_and_then_changes_nothing() -> None:
    assert after(*[SHORT] * 100, LONG).is_worthwhile
    assert after(*[*[SHORT] * 50, LONG] * 20).is_worthwhile


def test_who_rests_for_good_is_soon_let_be() -> None:
    assert not after(*[SHORT] * 1000, LONG, LONG, LONG).is_worthwhile


@pytest.mark.parametrize("short", [1, 2, 5, 15, 16, 20])
def test_what_is_lost_is_bounded_by_what_was_earned(short: int) -> None:
    """Whatever the pattern: a look in vain for each sixteen waits that were short."""
    found, lost = BusyPoll(), 0
    waits = [*[SHORT] * short, LONG] * 500
    for seconds in waits:
        lost += found.is_worthwhile and seconds > MAX_SPIN
        found.record_wait(seconds, polled=found.is_worthwhile)
    assert lost <= waits.count(SHORT) / 16
