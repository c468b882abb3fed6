"""Until when a lease can be relied on."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from meshtrio.etcd.lease_state import LeaseState


def test_a_lease_lasts_from_when_it_was_requested() -> None:
    state = LeaseState()
    assert state.get_current(0) is None
    state.grant(1, 10, sent_at=100)
    assert state.get_current(109.9) == 1
    assert state.get_current(110) is None
    assert state.granted_id == 1
    assert state.renew(10, sent_at=103, now=105)
    assert state.get_current(112.9) == 1
    assert state.get_current(113) is None


def test_a_lease_that_etcd_does_not_have_is_lost() -> None:
    state = LeaseState()
    state.grant(1, 10, sent_at=100)
    assert not state.renew(0, sent_at=101, now=102)
    assert state.get_current(102) is None
    assert state.granted_id is None
    assert state.losses == 1


def test_a_renewal_that_arrives_too_late_does_not_bring_it_back() -> None:
    state = LeaseState()
    state.grant(1, 10, sent_at=100)
    assert not state.renew(10, sent_at=109, now=111)
    assert state.get_current(111) is None
    assert state.losses == 1


def test_a_lease_is_lost_once_and_not_by_being_released() -> None:
    state = LeaseState()
    state.lose()
    assert state.losses == 0
    state.grant(1, 10, sent_at=100)
    state.lose_expired(109)
    assert state.granted_id == 1
    state.lose_expired(110)
    state.lose_expired(111)
    assert state.losses == 1
    state.grant(2, 10, sent_at=111)
    state.release()
    assert state.granted_id is None
    assert state.losses == 1


TIMES = st.floats(0, 20)


@given(st.lists(st.tuples(TIMES, TIMES, st.sampled_from([0, 3, 10]))))
def test_a_lease_is_never_held_for_longer_than_etcd_holds_it(
    renewals: list[tuple[float, float, int]],
) -> None:
    """etcd counts from when it processes a request, and the answer takes time, too."""
    state, now = LeaseState(), 0.0
    state.grant(1, 10, sent_at=now)
    etcd_until = 10.0
    for delay, answer_delay, ttl in renewals:
        sent_at = now + delay
        now = sent_at + answer_delay
        was_there = sent_at < etcd_until and ttl > 0
        if was_there:
            etcd_until = max(etcd_until, sent_at + ttl)
        if not state.renew(ttl if was_there else 0, sent_at, now):
            assert state.granted_id is None
            assert state.get_current(now) is None
            return
        for time in (now, now + 1, now + 10):
            assert state.get_current(time) is None or time < etcd_until
