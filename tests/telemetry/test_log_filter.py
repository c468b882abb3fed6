"""The filters of binary logging: what they let through, and what is none (gRFC A16)."""

from __future__ import annotations

import pytest

from meshtrio.config.binary_log_filter import BinaryLogFilter, MethodLogLimits

ALL, NOTHING = MethodLogLimits(), None
HEADERS, MESSAGES = MethodLogLimits(max_message_bytes=0), MethodLogLimits(max_header_bytes=0)


@pytest.mark.parametrize(
    ("text", "bar", "baz", "other"),
    [
        ("", NOTHING, NOTHING, NOTHING),
        ("*", ALL, ALL, ALL),
        ("*{h}", HEADERS, HEADERS, HEADERS),
        ("*{m}", MESSAGES, MESSAGES, MESSAGES),
        ("*{h;m}", ALL, ALL, ALL),
        ("*{h:1;m:2}", MethodLogLimits(1, 2), MethodLogLimits(1, 2), MethodLogLimits(1, 2)),
        ("*{h;m:2}", MethodLogLimits(None, 2), MethodLogLimits(None, 2), MethodLogLimits(None, 2)),
        ("*{h:1;m}", MethodLogLimits(1, None), MethodLogLimits(1, None), MethodLogLimits(1, None)),
        ("*{m:256}", MethodLogLimits(0, 256), MethodLogLimits(0, 256), MethodLogLimits(0, 256)),
        ("p.Foo/*", ALL, ALL, NOTHING),
        ("p.Foo/Bar", ALL, NOTHING, NOTHING),
        ("p.Foo/*,-p.Foo/Bar", NOTHING, ALL, NOTHING),
        ("-p.Foo/Bar,p.Foo/*", NOTHING, ALL, NOTHING),
        ("*,-p.Foo/Bar", NOTHING, ALL, ALL),
        ("p.Foo/*,p.Foo/Bar{m:256}", MethodLogLimits(0, 256), ALL, NOTHING),
        ("*{h},p.Foo/*{m},p.Foo/Bar", ALL, MESSAGES, HEADERS),
        ("-p.Foo/Bar", NOTHING, NOTHING, NOTHING),
    ],
)
def test_the_most_exact_pattern_counts(
    text: str,
    bar: MethodLogLimits | None,
    baz: MethodLogLimits | None,
    other: MethodLogLimits | None,
) -> None:
    found = BinaryLogFilter.parse(text)
    assert found.method_limits("p.Foo", "Bar") == bar
    assert found.method_limits("p.Foo", "Baz") == baz
    assert found.method_limits("p.Food", "Bar") == other


@pytest.mark.parametrize(
    "text",
    [
        ",",
        "*,",
        " *",
        "**",
        "*/Bar",
        "Foo",
        "/Foo/Bar",
        "Foo/",
        "Foo/Bar/Baz",
        "Foo/Bar baz",
        "Foo/Bär",
        "-*",
        "-Foo/*",
        "-Foo/Bar{h}",
        "*{",
        "*{}",
        "*{h:}",
        "*{h:-1}",
        "*{h:1.5}",
        "*{m;h}",
        "*{h,m}",
        "*{h;h}",
        "*{x}",
        "*{m:1}}",
        "*{h:" + "9" * 5000 + "}",
        "Foo/*{h};Foo/Bar",
        "*,*{h}",
        "Foo/*,Foo/*{h}",
        "Foo/Bar,Foo/Bar",
        "Foo/Bar,-Foo/Bar",
        "-Foo/Bar,-Foo/Bar",
    ],
)
def test_what_is_malformed_or_said_twice_is_refused(text: str) -> None:
    with pytest.raises(
        ValueError, match=r"expected|is repeated|there already is|only single methods"
    ):
        BinaryLogFilter.parse(text)
