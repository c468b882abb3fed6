"""Keys and values in etcd: what others write, and what is none of them."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.discovery.etcd_entries import (
    EndpointEntry,
    EntryError,
    NodeEntry,
    get_nodes_prefix,
    make_node_key,
    parse_entry,
)

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True)
services = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,20}[a-z]", fullmatch=True)
addresses = st.sampled_from(["tcp:10.0.0.1:7443", "tcp:[::1]:1", "tcp:host.example:65535"])


@given(
    st.builds(
        EndpointEntry,
        services,
        addresses,
        names,
        st.integers(0, 9999),
        st.integers(1, 100),
        names | st.just(""),
        names | st.just(""),
        st.booleans(),
    ),
    services,
)
def test_endpoints_of_nodes_are_read_as_they_are_written(entry: EndpointEntry, prefix: str) -> None:
    assert parse_entry(prefix, entry.make_key(prefix), entry.make_value()) == entry


@given(
    st.builds(NodeEntry, names, addresses | st.just(""), names, names, st.floats(0, 1e12), names)
)
def test_nodes_are_read_as_they_are_written(entry: NodeEntry) -> None:
    assert parse_entry("a/b", make_node_key("a/b", entry.name), entry.make_value()) == entry


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        # As grpc-go's manager writes it.
        (
            "meshtrio/plugin.echo/10.0.0.2:7443",
            '{"Op":0,"Addr":"10.0.0.2:7443","Metadata":null}',
            EndpointEntry("plugin.echo", "tcp:10.0.0.2:7443"),
        ),
        (
            "meshtrio/a/b/any suffix",
            '{"Addr":"h:1","Metadata":"text"}',
            EndpointEntry("a/b", "tcp:h:1"),
        ),
        (
            "meshtrio/a/x",
            '{"Op":0,"Addr":"unix:/run/a.sock"}',
            EndpointEntry("a", "unix:/run/a.sock"),
        ),
        # Metadata of others that only looks like ours.
        (
            "meshtrio/a/x",
            '{"Addr":"h:1","Metadata":{"node":"n","zone":"z","weight":7}}',
            EndpointEntry("a", "tcp:h:1"),
        ),
    ],
)
def test_what_other_programs_write_is_read(key: str, value: str, expected: EndpointEntry) -> None:
    assert parse_entry("meshtrio", key, value.encode()) == expected


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (b"", "it is not JSON"),
        (b"\xff\xfe", "it is not JSON"),
        (b"[" * 100_000, "more than"),
        (b"[" * 10_000, "it is not JSON"),
        (b"[]", "it is not an object"),
        (b'{"Op":1,"Addr":"h:1"}', "Op is 1, not 0"),
        (b'{"Op":0}', "it has no Addr"),
        (b'{"Addr":"nonsense"}', "Addr is 'nonsense', not host:port"),
        (b'{"Addr":7}', "Addr is 7, not a text"),
        (b'{"Addr":"h:1","Metadata":{"node":"n","instance":-1}}', "instance is -1"),
        (b'{"Addr":"h:1","Metadata":{"weight":1e99}}', "weight is 1e+99"),
        (json.dumps({"Addr": "h:1", "Metadata": {"zone": "z" * 1000}}).encode(), "zone is 'zzz"),
        (b"x" * 1_000_000, "it has 1,000,000 bytes, more than 16,384"),
    ],
)
def test_other_values_are_refused_with_the_reason(value: bytes, problem: str) -> None:
    with pytest.raises(EntryError) as caught:
        parse_entry("meshtrio", "meshtrio/a/b", value)
    assert problem in str(caught.value)
    assert len(str(caught.value)) < 200


@given(
    st.text(),
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["Op", "Addr", "Metadata", "node", "zone", "weight", "instance", "since"]
                ),
                inner,
            )
        ),
    ).map(lambda value: json.dumps(value).encode()),
)
def test_nothing_else_is_raised(name: str, value: bytes) -> None:
    for key in (f"p/{name}", f"{get_nodes_prefix('p')}{name}"):
        with contextlib.suppress(EntryError):
            parse_entry("p", key, value)


@pytest.mark.parametrize(
    "key", ["m/x", "m//x", "m/a b/x", "m/\x1b/x", "m/a/", "m/.nodes/", "m/.nodes/a/b"]
)
def test_keys_without_names_are_refused(key: str) -> None:
    with pytest.raises(EntryError, match="name of"):
        parse_entry("m", key, b'{"Addr":"h:1"}')
