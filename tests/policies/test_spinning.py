"""When looking again before going to sleep pays."""

from __future__ import annotations

import pytest

from meshtrio.policies.spinning import LONGEST, Spinning

SHORT, LONG = LONGEST / 2, LONGEST * 50


def after(*waits: float) -> Spinning:
    """Waits of so many seconds, each spent as the ones before have it."""
    found = Spinning()
    for seconds in waits:
        found.waited(seconds, spun=found.pays)
    return found


def test_it_has_to_be_earned() -> None:
    assert not Spinning().pays
    assert not after(*[SHORT] * 10).pays
    assert after(*[SHORT] * 17).pays
    assert after(*[LONGEST] * 17).pays


def test_who_is_never_quick_never_pays() -> None:
    assert not after(*[LONG] * 1000).pays
    assert not after(*[SHORT, LONG, LONG] * 10, *[LONG] * 1000).pays


def test_a_rest_now_and_then_changes_nothing() -> None:
    assert after(*[SHORT] * 100, LONG).pays
    assert after(*[*[SHORT] * 50, LONG] * 20).pays


def test_who_rests_for_good_is_soon_let_be() -> None:
    assert not after(*[SHORT] * 1000, LONG, LONG, LONG).pays


@pytest.mark.parametrize("short", [1, 2, 5, 15, 16, 20])
def test_what_is_lost_is_bounded_by_what_was_earned(short: int) -> None:
    """Whatever the pattern: a look in vain for each sixteen waits that were short."""
    found, lost = Spinning(), 0
    waits = [*[SHORT] * short, LONG] * 500
    for seconds in waits:
        lost += found.pays and seconds > LONGEST
        found.waited(seconds, spun=found.pays)
    assert lost <= waits.count(SHORT) / 16
