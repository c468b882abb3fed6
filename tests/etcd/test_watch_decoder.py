"""Changes made of the responses of a watch, without I/O."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.etcd.errors import (
    EtcdAuthError,
    EtcdCompactedError,
    EtcdError,
    EtcdNoLeaderError,
    EtcdTokenError,
)
from meshtrio.etcd.values import KeyValue, PrefixChange
from meshtrio.etcd.watch_decoder import WatchDecoder
from meshtrio.messages import etcd as messages
from tests.support.etcd_views import apply_change


def make_decoder(revision: int = 10, **options: Any) -> WatchDecoder:
    return WatchDecoder("watching 'p/'", "http://m", revision, **{"is_resumed": False, **options})


def put(key: bytes, value: bytes, revision: int, lease: int = 0) -> messages.WatchEvent:
    stored = messages.StoredKey(
        key=key, value=value, mod_revision=revision, create_revision=5, lease=lease
    )
    return messages.WatchEvent(key=stored)


def delete(key: bytes, revision: int) -> messages.WatchEvent:
    stored = messages.StoredKey(key=key, mod_revision=revision)
    return messages.WatchEvent(type=messages.WatchEvent.DELETE, key=stored)


def respond(*events: messages.WatchEvent, fragment: bool = False) -> messages.WatchResponse:
    return messages.WatchResponse(events=events, fragment=fragment)


def created(revision: int, cluster_id: int = 1) -> messages.WatchResponse:
    header = messages.ResponseHeader(revision=revision, cluster_id=cluster_id)
    return messages.WatchResponse(created=True, header=header)


def test_events_of_a_response_are_one_change() -> None:
    decoder = make_decoder()
    assert decoder.decode(created(10)) is None
    assert decoder.is_created
    change = decoder.decode(
        respond(put(b"a", b"1", 11), put(b"b", b"1", 12), put(b"a", b"2", 13, 7), delete(b"b", 14))
    )
    assert change == PrefixChange(
        is_snapshot=False, puts=[KeyValue("a", b"2", 7, 5, 13)], deletes=["b"], revision=14
    )
    assert decoder.revision == 14


def test_fragments_are_one_change() -> None:
    decoder = make_decoder()
    assert decoder.decode(respond(put(b"a", b"1", 11), fragment=True)) is None
    assert decoder.revision == 10
    change = decoder.decode(respond(put(b"b", b"1", 11)))
    assert change is not None
    assert [each.key for each in change.puts] == ["a", "b"]
    assert decoder.revision == 11


def test_progress_changes_nothing() -> None:
    """Its revision may be ahead of events that are still to come."""
    decoder = make_decoder()
    progress = messages.WatchResponse(header=messages.ResponseHeader(revision=99))
    assert decoder.decode(progress) is None
    assert decoder.revision == 10


def test_events_that_the_view_has_are_left_out() -> None:
    decoder = make_decoder()
    assert decoder.decode(respond(put(b"a", b"1", 10))) is None
    assert decoder.revision == 10


def test_events_of_keys_that_are_no_text_only_advance_the_revision() -> None:
    decoder = make_decoder()
    assert decoder.decode(respond(put(b"\xff", b"", 11), delete(b"\xfe", 12))) is None
    assert decoder.revision == 12


@pytest.mark.parametrize(
    ("response", "kind", "text"),
    [
        ({"canceled": True, "compact_revision": 20}, EtcdCompactedError, "revision 20 were"),
        ({"compact_revision": 20}, EtcdCompactedError, "revision 20 were"),
        ({"canceled": True}, EtcdError, "it cancelled the watch"),
        ({"canceled": True, "cancel_reason": "etcdserver: no leader"}, EtcdNoLeaderError, "no le"),
        ({"canceled": True, "cancel_reason": "x desc = permission denied"}, EtcdAuthError, ": per"),
        ({"canceled": True, "cancel_reason": "x: invalid auth token"}, EtcdTokenError, "invalid"),
    ],
)
def test_a_cancelled_watch_is_an_error(
    response: dict[str, Any], kind: type[EtcdError], text: str
) -> None:
    with pytest.raises(EtcdError, match=text) as caught:
        make_decoder().decode(messages.WatchResponse(created=True, **response))
    assert type(caught.value) is kind
    assert caught.value.member == "http://m"


def test_a_resumed_watch_of_another_history_has_to_list_again() -> None:
    with pytest.raises(EtcdCompactedError, match="its revision 9 is before 10"):
        make_decoder(is_resumed=True).decode(created(9))
    with pytest.raises(EtcdCompactedError, match="another cluster"):
        make_decoder(is_resumed=True, cluster_id=2).decode(created(11, cluster_id=1))
    for decoder in (
        make_decoder(is_resumed=True, cluster_id=1),
        make_decoder(is_resumed=True),
        make_decoder(cluster_id=2),
    ):
        assert decoder.decode(created(11, cluster_id=1)) is None
        assert decoder.cluster_id == 1
    # Of a list that was made just before, a member that lags behind is no sign of anything.
    assert make_decoder().decode(created(9)) is None


KEYS = st.sampled_from([b"a", b"b", b"c", b"\xff"])
OPERATIONS = st.lists(
    st.tuples(KEYS, st.one_of(st.none(), st.binary(max_size=3)), st.booleans(), st.booleans())
)
"""Key; value, or None to delete it; whether the revision and the response end after it."""


@given(OPERATIONS)
def test_a_view_is_what_etcd_has_however_events_are_split(
    operations: list[tuple[bytes, bytes | None, bool, bool]],
) -> None:
    decoder, view, truth = make_decoder(), dict[str, bytes](), dict[bytes, bytes]()
    revision, pending = 11, list[messages.WatchEvent]()

    def send(*, fragment: bool) -> None:
        change = decoder.decode(respond(*pending, fragment=fragment))
        pending.clear()
        if change is not None:
            assert not fragment
            apply_change(view, change)

    for key, value, ends_revision, ends_response in operations:
        if value is None:
            pending.append(delete(key, revision))
            truth.pop(key, None)
        else:
            pending.append(put(key, value, revision))
            truth[key] = value
        if ends_response:
            # A revision is in one response, except for fragments.
            send(fragment=not ends_revision)
        revision += ends_revision
    send(fragment=False)
    assert view == {key.decode(): value for key, value in truth.items() if key != b"\xff"}


@given(st.binary(max_size=200))
def test_what_is_no_response_raises_nothing_but_errors_of_etcd(data: bytes) -> None:
    response = messages.WatchResponse()
    try:
        response.ParseFromString(data)
    except Exception:
        return  # The call fails with it.
    with suppress(EtcdError):
        make_decoder().decode(response)
