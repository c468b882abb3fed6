"""Names in DNS as endpoints of a config."""

from __future__ import annotations

import re

import pytest

from meshtrio.util.dns_target import (
    DnsTarget,
    check_endpoint,
    parse_name_server,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dns:///echo.internal:7443", DnsTarget("echo.internal", 7443)),
        ("dns:echo.internal:7443", DnsTarget("echo.internal", 7443)),
        ("dns:///echo:1", DnsTarget("echo", 1)),
        ("dns:///Echo.internal.:65535", DnsTarget("Echo.internal.", 65535)),
        ("dns://10.0.0.53/a_b.c-d:1", DnsTarget("a_b.c-d", 1, "10.0.0.53:53")),
        ("dns://127.0.0.1:5353/echo:1", DnsTarget("echo", 1, "127.0.0.1:5353")),
        ("dns://[::1]:5353/echo:1", DnsTarget("echo", 1, "[::1]:5353")),
        ("dns://[::1]/echo:1", DnsTarget("echo", 1, "[::1]:53")),
        ("dns+srv:///_grpc._tcp.echo.internal", DnsTarget("_grpc._tcp.echo.internal")),
        ("dns+srv:echo.service.consul", DnsTarget("echo.service.consul")),
        ("dns+srv://127.0.0.1:8600/echo.service.consul", DnsTarget(
            "echo.service.consul", 0, "127.0.0.1:8600"
        )),
    ],
)  # fmt: skip
def test_forms(text: str, expected: DnsTarget) -> None:
    found = DnsTarget.parse(text)
    assert found == expected
    assert DnsTarget.parse(str(found)) == expected
    check_endpoint(text)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("dns://echo.internal:7443", "is dns:///echo.internal:7443 meant"),
        ("dns:///echo.internal", "no port between 1 and 65535"),
        ("dns:///echo.internal:0", "no port"),
        ("dns:///echo.internal:65536", "no port"),
        ("dns:///:1", "no port"),
        ("dns:///10.0.0.1:7443", "write tcp:host:port"),
        ("dns:///[::1]:7443", "write tcp:host:port"),
        ("dns://ns.internal/echo:1", "not the IP address of a name server"),
        ("dns://1.2.3.4:x/echo:1", "not the IP address of a name server"),
        ("dns:///a..b:1", "not a name in DNS"),
        ("dns:///-a:1", "not a name in DNS"),
        (f"dns:///{'a' * 64}:1", "labels of at most 63"),
        (f"dns:///{'.'.join(['a' * 60] * 5)}:1", "not a name in DNS"),
        ("dns:///müller.example:1", "xn--"),
        ("dns:///a/b:1", "not a name in DNS"),
        ("dns+srv:///_grpc._tcp.echo:7443", "not a name in DNS"),
        ("dns+srv:///", "not a name in DNS"),
        ("http://echo", "neither unix:/path nor tcp:host:port, nor a name in DNS, dns:///host"),
    ],
)
def test_errors_say_what_to_write(text: str, part: str) -> None:
    with pytest.raises(ValueError, match=re.escape(part)) as caught:
        check_endpoint(text)
    assert text[:100] in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("dns:///echo.internal.:1", "echo.internal"),
        ("dns:///_odd.internal:1", "_odd.internal"),
        ("dns+srv:///_grpc._tcp.echo.internal", "echo.internal"),
        ("dns+srv:///echo.service.consul", "echo.service.consul"),
    ],
)
def test_the_name_of_certificates_is_that_of_the_config(text: str, name: str) -> None:
    assert DnsTarget.parse(text).server_name == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.53", ("10.0.0.53", 53)),
        ("10.0.0.53:5353", ("10.0.0.53", 5353)),
        ("::1", ("::1", 53)),
        ("[::1]", ("::1", 53)),
        ("[fe80::1]:5353", ("fe80::1", 5353)),
    ],
)
def test_name_servers(text: str, expected: tuple[str, int]) -> None:
    assert parse_name_server(text) == expected


@pytest.mark.parametrize("text", ["localhost:53", "", ":53", "10.0.0.53:0", "10.0.0.53:x"])
def test_name_servers_are_addresses(text: str) -> None:
    with pytest.raises(ValueError, match="not the IP address of a name server"):
        parse_name_server(text)
