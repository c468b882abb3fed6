"""Parsing of request headers, response headers and trailers."""

from __future__ import annotations

from copy import copy
from operator import itemgetter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrio.grpc.headers import (
    RequestHeaders,
    ResponseHeaders,
    Trailers,
    _parse_all_request_headers,
    parse_request_headers,
    parse_response_headers,
    parse_trailers,
)
from meshtrio.grpc.metadata import encode_metadata
from meshtrio.http2.errors import MalformedHeadersError

quick = settings(max_examples=100)

METHOD, SCHEME, PATH = (b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/m")
REQUEST = (METHOD, SCHEME, PATH)
STATUS = (b":status", b"200")
GRPC_STATUS = (b"grpc-status", b"0")

# What RFC 9113 §8.2 says of every field, wherever it stands.
BAD_FIELDS = [
    pytest.param((b"Key", b"v"), id="upper-case name"),
    pytest.param((b"", b"v"), id="empty name"),
    pytest.param((b":", b"v"), id="nothing after the colon"),
    pytest.param((b"a b", b"v"), id="space in the name"),
    pytest.param((b"a:b", b"v"), id="colon in the name"),
    pytest.param((b"a\x00", b"v"), id="NUL in the name"),
    pytest.param((b"a\n", b"v"), id="line feed after the name"),
    pytest.param((b"\xe9", b"v"), id="name beyond ASCII"),
    pytest.param((b"\x7f", b"v"), id="DEL in the name"),
    pytest.param((b"k", b"a\x00b"), id="NUL in the value"),
    pytest.param((b"k", b"a\rb"), id="carriage return in the value"),
    pytest.param((b"k", b"a\nb"), id="line feed in the value"),
    pytest.param((b"k", b"v\n"), id="line feed after the value"),
    pytest.param((b"connection", b"close"), id="connection"),
    pytest.param((b"keep-alive", b"1"), id="keep-alive"),
    pytest.param((b"proxy-connection", b"close"), id="proxy-connection"),
    pytest.param((b"transfer-encoding", b"chunked"), id="transfer-encoding"),
    pytest.param((b"upgrade", b"h2c"), id="upgrade"),
    pytest.param((b":unknown", b"v"), id="unknown pseudo-header field"),
]

GOOD_FIELDS = [
    pytest.param((b"k", b""), ("k", ""), id="empty value"),
    pytest.param((b"k", b"a \t b"), ("k", "a \t b"), id="blanks inside the value"),
    pytest.param((b"k", b" v"), ("k", "v"), id="space before the value"),
    pytest.param((b"k", b"v "), ("k", "v"), id="space after the value"),
    pytest.param((b"k", b"\tv"), ("k", "v"), id="tab before the value"),
    pytest.param((b"k", b"v\t"), ("k", "v"), id="tab after the value"),
    pytest.param((b"k", b" \t "), ("k", ""), id="nothing but white space"),
    pytest.param((b"k-bin", b" AP8 "), ("k-bin", b"\x00\xff"), id="white space around binary"),
    pytest.param((b"k", b"\xe9"), ("k", "é"), id="value beyond ASCII"),
    pytest.param((b"!#$%&'*+-.^_`|~09az", b"v"), ("!#$%&'*+-.^_`|~09az", "v"), id="any token"),
    pytest.param((b"k-bin", b"AP8"), ("k-bin", b"\x00\xff"), id="binary"),
    pytest.param((b"grpc-trace-bin", b"AA=="), ("grpc-trace-bin", b"\x00"), id="trace"),
    pytest.param((b"grpc-tags-bin", b"AA=="), ("grpc-tags-bin", b"\x00"), id="tags"),
]

# -- requests ------------------------------------------------------------------------------------


def test_a_request_with_everything():
    fields = (
        *REQUEST,
        (b":authority", b"plugin.echo"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc+proto"),
        (b"content-length", b"12"),
        (b"user-agent", b"meshtrio"),
        (b"grpc-timeout", b"250m"),
        (b"grpc-encoding", b"gzip"),
        (b"grpc-accept-encoding", b"identity, gzip,,deflate"),
        (b"grpc-message-type", b"echo.Request"),
        (b"key", b"value"),
        (b"key-bin", b"AA,/w=="),
        (b"key", b"again"),
    )
    assert parse_request_headers(fields) == RequestHeaders(
        method="POST",
        scheme="http",
        path="/s/m",
        authority="plugin.echo",
        content_type="application/grpc+proto",
        timeout=0.25,
        encoding="gzip",
        accept_encoding=("identity", "gzip", "deflate"),
        user_agent="meshtrio",
        metadata=(("key", "value"), ("key-bin", b"\x00"), ("key-bin", b"\xff"), ("key", "again")),
        content_length=12,
    )


def test_a_request_with_nothing_but_what_it_must_have():
    assert parse_request_headers(REQUEST) == RequestHeaders(
        method="POST",
        scheme="http",
        path="/s/m",
        authority="",
        content_type="",
        timeout=None,
        encoding="identity",
        accept_encoding=(),
        user_agent="",
        metadata=(),
        content_length=None,
    )


_VALUES = st.sampled_from([b"1S", b"20m", b"00-1-2-01", b"", b" 1S", b"a\x00"])
_VARYING = st.tuples(st.sampled_from([b"grpc-timeout", b"traceparent"]), _VALUES)
_OTHERS = st.sampled_from([METHOD, SCHEME, PATH, (b"te", b"trailers"), (b"k", b"v"), (b"K", b"v")])


@given(st.lists(st.one_of(_VARYING, _OTHERS), max_size=6))
@settings(max_examples=500)
def test_what_varies_is_read_as_if_all_were_read_anew(fields):
    whole = (*REQUEST, *fields)
    try:
        expected = _parse_all_request_headers(whole)
    except MalformedHeadersError:
        with pytest.raises(MalformedHeadersError):
            parse_request_headers(whole)
        return
    found = parse_request_headers(whole)
    # Keys may change places, values of one key may not.
    assert sorted(found.metadata, key=itemgetter(0)) == sorted(expected.metadata, key=itemgetter(0))
    found, expected = copy(found), copy(expected)
    found.metadata = expected.metadata = ()
    assert found == expected


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((), id="empty"),
        pytest.param((SCHEME, PATH), id="no method"),
        pytest.param((METHOD, PATH), id="no scheme"),
        pytest.param((METHOD, SCHEME), id="no path"),
        pytest.param((METHOD, SCHEME, (b":path", b"")), id="empty path"),
        pytest.param(((b":method", b""), SCHEME, PATH), id="empty method"),
        pytest.param((*REQUEST, METHOD), id="method twice"),
        pytest.param((*REQUEST, PATH), id="path twice"),
        pytest.param(
            (*REQUEST, (b":authority", b"a"), (b":authority", b"a")), id="authority twice"
        ),
        pytest.param((*REQUEST, STATUS), id="a response's pseudo-header field"),
        pytest.param((METHOD, SCHEME, (b"k", b"v"), PATH), id="pseudo-header after a field"),
        pytest.param(((b":Method", b"POST"), SCHEME, PATH), id="pseudo-header in capitals"),
        pytest.param((*REQUEST, (b"te", b"gzip")), id="te of another kind"),
        pytest.param((*REQUEST, (b"te", b"trailers, gzip")), id="te of two kinds"),
        pytest.param((*REQUEST, (b"content-length", b"")), id="empty content-length"),
        pytest.param((*REQUEST, (b"content-length", b"-1")), id="negative content-length"),
        pytest.param((*REQUEST, (b"content-length", b"1,1")), id="content-length list"),
        pytest.param((*REQUEST, (b"content-length", b"9" * 19)), id="endless content-length"),
    ],
)
def test_malformed_requests(fields):
    with pytest.raises(MalformedHeadersError):
        parse_request_headers(fields)


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_bad_fields_make_a_request_malformed(field):
    with pytest.raises(MalformedHeadersError):
        parse_request_headers((*REQUEST, field))


@pytest.mark.parametrize(("field", "expected"), GOOD_FIELDS)
def test_good_fields_become_a_requests_metadata(field, expected):
    assert parse_request_headers((*REQUEST, field)).metadata == (expected,)


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        pytest.param([(b":authority", b"a")], "a", id="authority"),
        pytest.param([(b"host", b"h")], "h", id="host in its place"),
        pytest.param([(b":authority", b"a"), (b"host", b"a")], "a", id="both"),
        pytest.param([], "", id="neither"),
    ],
)
def test_authority(extra, expected):
    head = parse_request_headers((*REQUEST, *extra))
    assert head.authority == expected
    assert head.metadata == ()


@pytest.mark.parametrize(
    ("method", "content_type", "expected"),
    [
        (b"POST", b"application/grpc", True),
        (b"POST", b"application/grpc+proto", True),
        (b"POST", b"application/grpc;charset=x", True),
        (b"GET", b"application/grpc", False),
        (b"POST", b"application/json", False),
        (b"POST", b"", False),
    ],
)
def test_is_grpc(method, content_type, expected):
    fields = ((b":method", method), SCHEME, PATH, (b"content-type", content_type))
    assert parse_request_headers(fields).is_grpc is expected


# -- responses -----------------------------------------------------------------------------------


def test_a_response_with_everything():
    fields = (
        STATUS,
        (b"content-type", b"application/grpc"),
        (b"content-length", b"0"),
        (b"grpc-encoding", b"gzip"),
        (b"grpc-accept-encoding", b"identity"),
        (b"key", b"value"),
    )
    assert parse_response_headers(fields) == ResponseHeaders(
        http_status=200,
        content_type="application/grpc",
        encoding="gzip",
        metadata=(("key", "value"),),
        trailers=None,
        content_length=0,
    )


def test_a_response_of_trailers_only():
    head = parse_response_headers(
        (STATUS, (b"grpc-status", b"12"), (b"grpc-message", b"no"), (b"k", b"v"))
    )
    assert head.trailers == Trailers(12, "no", (("k", "v"),))
    assert head.metadata == (("k", "v"),)


@pytest.mark.parametrize("status", [100, 103, 200, 204, 404, 415, 503, 999])
def test_http_status(status):
    assert parse_response_headers(((b":status", b"%d" % status),)).http_status == status


@pytest.mark.parametrize("status", [b"", b"20", b"2000", b"099", b"000", b"2x0", b"-20", b"+20"])
def test_malformed_http_status(status):
    with pytest.raises(MalformedHeadersError, match=":status"):
        parse_response_headers(((b":status", status),))


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param((), id="empty"),
        pytest.param(((b"k", b"v"),), id="no status"),
        pytest.param((STATUS, STATUS), id="status twice"),
        pytest.param(((b"k", b"v"), STATUS), id="status after a field"),
        pytest.param((STATUS, PATH), id="a request's pseudo-header field"),
        pytest.param((STATUS, (b"content-length", b"x")), id="content-length"),
    ],
)
def test_malformed_responses(fields):
    with pytest.raises(MalformedHeadersError):
        parse_response_headers(fields)


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_bad_fields_make_a_response_malformed(field):
    with pytest.raises(MalformedHeadersError):
        parse_response_headers((STATUS, field))


@pytest.mark.parametrize(("field", "expected"), GOOD_FIELDS)
def test_good_fields_become_a_responses_metadata(field, expected):
    assert parse_response_headers((STATUS, field)).metadata == (expected,)


# -- trailers ------------------------------------------------------------------------------------


def test_trailers_with_everything():
    fields = (
        (b"grpc-status", b"5"),
        (b"grpc-message", b"no %C3%A9"),
        (b"grpc-status-details-bin", b"AA"),
        (b"k", b"v"),
        (b"k-bin", b"/w"),
    )
    expected = Trailers(5, "no é", (("k", "v"), ("k-bin", b"\xff")), details=b"\x00")
    assert parse_trailers(fields) == expected


@pytest.mark.parametrize("fields", [(), ((b"k", b"v"),), ((b"grpc-message", b"m"),)])
def test_trailers_without_a_status(fields):
    assert parse_trailers(fields) is None


@pytest.mark.parametrize(
    ("status", "code"),
    [(b"0", 0), (b"16", 16), (b"007", 7), (b"99", 99)]
    + [(bad, 2) for bad in (b"", b"x", b"-1", b"1.0", b"\xb2", b"9" * 10)],
)
def test_a_status_that_is_no_number_is_unknown(status, code):
    assert parse_trailers(((b"grpc-status", status),)) == Trailers(code, "", ())


@pytest.mark.parametrize("pseudo", [STATUS, PATH, METHOD, (b":unknown", b"v")], ids=ascii)
def test_trailers_have_no_pseudo_header_fields(pseudo):
    with pytest.raises(MalformedHeadersError):
        parse_trailers((pseudo, GRPC_STATUS))


@pytest.mark.parametrize("field", BAD_FIELDS)
def test_bad_fields_make_trailers_malformed(field):
    with pytest.raises(MalformedHeadersError):
        parse_trailers((GRPC_STATUS, field))


# -- together with what encodes them -------------------------------------------------------------

_printable = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=20)
_keys = st.from_regex(r"x-[a-z0-9_.\-]{0,8}", fullmatch=True)
_text_entries = st.tuples(_keys.filter(lambda k: not k.endswith("-bin")), _printable.map(str.strip))
_binary_entries = st.tuples(_keys.map("{}-bin".format), st.binary(max_size=20))


@given(st.lists(st.one_of(_text_entries, _binary_entries), max_size=5).map(tuple))
@quick
def test_metadata_round_trips(metadata):
    fields = tuple(encode_metadata(metadata))
    assert parse_request_headers((*REQUEST, *fields)).metadata == metadata
    assert parse_response_headers((STATUS, *fields)).metadata == metadata
    assert parse_trailers((GRPC_STATUS, *fields)) == Trailers(0, "", metadata)
