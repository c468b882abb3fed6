"""Endpoints, keys, errors and the order of members."""

from __future__ import annotations

from typing import Any

import purerpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.etcd import open_client
from meshtrio.etcd.endpoints import EtcdEndpoint, parse_endpoint, parse_endpoints
from meshtrio.etcd.errors import (
    EtcdAuthError,
    EtcdCompactedError,
    EtcdError,
    EtcdNoLeaderError,
    EtcdNoSpaceError,
    EtcdTokenError,
    EtcdTooLargeError,
    EtcdUnavailableError,
    combine_failures,
    error_from_status,
)
from meshtrio.etcd.members import Members
from meshtrio.etcd.values import encode_prefix
from meshtrio.util.errors import UsageError
from meshtrio.util.tls_config import ClientTlsConfig


@pytest.mark.parametrize(
    ("url", "wanted"),
    [
        ("http://10.0.0.1:2379", ("tcp:10.0.0.1:2379", False, False)),
        ("https://etcd.internal:1/", ("tcp:etcd.internal:1", True, False)),
        ("http://127.1.2.3", ("tcp:127.1.2.3:2379", False, True)),
        ("http://localhost:2379", ("tcp:localhost:2379", False, True)),
        ("https://[::1]:2379", ("tcp:[::1]:2379", True, True)),
    ],
)
def test_an_endpoint_is_parsed(url: str, wanted: tuple[str, bool, bool]) -> None:
    assert parse_endpoint(url) == EtcdEndpoint(url, *wanted)


@pytest.mark.parametrize(
    "url",
    [
        *("", "10.0.0.1:2379", "tcp://a:1", "http://", "http://a:b", "http://a:99999"),
        *("http://[::1", "http://a/b", "http://u:p@a", "http://a?b", "http://a#b", "unix:/a"),
    ],
)
def test_what_is_no_endpoint_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError, match="no endpoint of etcd"):
        parse_endpoint(url)


def test_endpoints_are_a_list_of_different_ones() -> None:
    assert len(parse_endpoints(["http://a:1", "http://a:1/", "http://b:1"])) == 2
    for endpoints in ([], "http://a:1"):
        with pytest.raises(UsageError, match="endpoints of etcd"):
            parse_endpoints(endpoints)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"tls": ClientTlsConfig()}, "use https://"),
        ({"user": "a"}, "both a user and a password"),
        ({"password": "a"}, "both a user and a password"),
    ],
)
async def test_options_that_contradict_each_other_are_refused(
    options: dict[str, Any], text: str
) -> None:
    with pytest.raises(UsageError, match=text):
        async with open_client(["http://127.0.0.1:1"], **options):
            pass


async def test_plaintext_to_another_host_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async with open_client(["http://192.0.2.1:1", "http://127.0.0.1:1"]):
        pass
    assert caplog.messages == ["etcd at http://192.0.2.1:1 is spoken to without TLS; use https://"]


@given(st.text(max_size=5), st.text(max_size=5))
def test_the_range_of_a_prefix_has_the_keys_that_begin_with_it(prefix: str, key: str) -> None:
    try:
        start, end = encode_prefix(prefix)
        data = key.encode()
    except (UsageError, UnicodeEncodeError):
        return
    if data:
        is_in_range = start <= data and (end == b"\0" or data < end)
        assert is_in_range == key.startswith(prefix)
    if prefix:
        assert start <= (prefix + key).encode() < end


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (purerpc.UnavailableError("etcdserver: no leader"), EtcdNoLeaderError),
        (purerpc.UnavailableError("etcdserver: request timed out"), EtcdUnavailableError),
        (purerpc.UnknownError("auth: revision in header is old"), EtcdTokenError),
        (purerpc.InvalidArgumentError("etcdserver: revision of auth store is old"), EtcdTokenError),
        (purerpc.UnauthenticatedError(""), EtcdTokenError),
        (purerpc.PermissionDeniedError("no"), EtcdAuthError),
        (purerpc.ResourceExhaustedError("mvcc: database space exceeded"), EtcdNoSpaceError),
        (purerpc.ResourceExhaustedError("received a message of 9 bytes"), EtcdTooLargeError),
        (purerpc.ResourceExhaustedError("etcdserver: too many requests"), EtcdError),
        (purerpc.OutOfRangeError("required revision has been compacted"), EtcdCompactedError),
        (purerpc.OutOfRangeError("revision is a future revision"), EtcdUnavailableError),
        (purerpc.UnimplementedError("unknown service"), EtcdUnavailableError),
    ],
)
def test_a_status_is_an_error_by_its_text_and_else_by_its_code(
    error: purerpc.RpcFailedError, kind: type[EtcdError]
) -> None:
    assert type(error_from_status(error, "a", "http://m", "tcp:m:1")) is kind


def test_an_error_says_where_what_why_and_what_to_do_on_one_line() -> None:
    error = error_from_status(purerpc.UnavailableError("b\nc"), "putting a", "http://m", "tcp:m:1")
    assert str(error) == (
        "etcd at http://m: putting a failed: b\\nc; check that etcd runs, and its endpoints"
    )
    assert (error.operation, error.reason, error.member) == ("putting a", "b\nc", "http://m")


def test_failures_of_all_members_are_one_error() -> None:
    first = EtcdUnavailableError("putting a", "refused", member="http://m")
    second = EtcdNoLeaderError("putting a", "no leader", member="http://n")
    assert combine_failures("putting a", [first]) is first
    combined = combine_failures("putting a", [first, second])
    assert isinstance(combined, EtcdNoLeaderError)
    assert combined.reason == "http://m: refused, http://n: no leader"


def test_the_member_that_answered_is_preferred_until_it_fails() -> None:
    names: Any = ("a", "b", "c")
    members = Members(names, 1)
    assert members.in_order() == ("b", "c", "a")
    members.leave(names[1])
    assert members.in_order() == ("c", "a", "b")
    members.leave(names[1])  # Left already, as another call has found out.
    assert members.preferred == "c"
    members.prefer(names[0])
    assert members.in_order() == ("a", "b", "c")
