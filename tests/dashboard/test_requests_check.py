"""Which requests are accepted: Host, Origin, other sites, cookies, tokens."""

from __future__ import annotations

import pytest

from meshtrio.config import DashboardConfig
from meshtrio.dashboard.requests_check import Gatekeeper, RefusedError

TOKEN = "t" * 43
GATEKEEPER = Gatekeeper(DashboardConfig("127.0.0.1:9465", hosts=("Mesh.Example", "::2")), TOKEN)


def check_site(local_host: str = "127.0.0.1", *, is_page: bool = False, **headers: str) -> None:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    GATEKEEPER.check_site(fields, local_host, is_page=is_page)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1:9465", "10.1.2.3"),  # behind a proxy on this machine
        ("localhost:9465", "127.0.0.1"),
        ("LocalHost:1", "127.0.0.1"),
        ("localhost.", "127.0.0.1"),
        ("mesh.example", "127.0.0.1"),
        ("MESH.example:443", "127.0.0.1"),
        ("10.1.2.3:9465", "10.1.2.3"),
        ("10.1.2.3:9465", "::ffff:10.1.2.3"),
        ("[fe80::1]:9465", "fe80::1%eth0"),
        ("[0:0::2]", "127.0.0.1"),
    ],
)
def test_names_of_ours(host: str, local: str) -> None:
    check_site(local, host=host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.test",
        "evil.test:9465",
        "127.0.0.1.evil.test",
        "localhost.evil.test",
        "mesh.example.evil.test",
        "evilmesh.example",
        "10.1.2.3",
        "127.0.0.2",
        "127.0.0.1@evil.test",
        "evil.test#127.0.0.1",
        "[::1",
        "localhost\n",
        "2130706433",
        "\xff",
    ],
)
def test_names_of_others(host: str) -> None:
    with pytest.raises(RefusedError, match="Host") as caught:
        check_site(host=host)
    assert caught.value.status == 403


@pytest.mark.parametrize(
    ("headers", "is_ours"),
    [
        ({}, True),
        ({"origin": "http://localhost:9465"}, True),
        ({"origin": "https://localhost:9465"}, True),  # a proxy with TLS
        ({"origin": "http://LOCALHOST:9465"}, True),
        ({"origin": "http://localhost:8080"}, False),
        ({"origin": "http://localhost"}, False),
        ({"origin": "http://127.0.0.1:9465"}, False),
        ({"origin": "http://evil.test"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "ftp://localhost:9465"}, False),
        ({"origin": "localhost:9465"}, False),
        ({"sec_fetch_site": "same-origin"}, True),
        ({"sec_fetch_site": "none"}, True),
        ({"sec_fetch_site": "same-site"}, False),
        ({"sec_fetch_site": "cross-site"}, False),
    ],
)
def test_pages_of_ours_and_of_others(headers: dict[str, str], is_ours: bool) -> None:
    if is_ours:
        check_site(host="localhost:9465", **headers)
        return
    with pytest.raises(RefusedError) as caught:
        check_site(host="localhost:9465", **headers)
    assert caught.value.status == 403


def test_other_sites_may_link_to_the_page() -> None:
    check_site(host="localhost:9465", sec_fetch_site="cross-site", is_page=True)


def test_with_tls_the_origin_has_it_too(tls_gatekeeper: Gatekeeper) -> None:
    headers = {"host": "localhost:9465", "origin": "https://localhost:9465"}
    tls_gatekeeper.check_site(headers, "127.0.0.1", is_page=False)
    headers["origin"] = "http://localhost:9465"
    with pytest.raises(RefusedError):
        tls_gatekeeper.check_site(headers, "127.0.0.1", is_page=False)


@pytest.fixture
def tls_gatekeeper() -> Gatekeeper:
    from pathlib import Path

    from meshtrio.util.tls_config import ServerTlsConfig

    tls = ServerTlsConfig(Path("cert.pem"), Path("key.pem"))
    return Gatekeeper(DashboardConfig("127.0.0.1:9465", tls=tls), TOKEN)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://localhost", "content-type": "application/json"}, None),
        ({"origin": "x", "content-type": "Application/JSON; charset=utf-8"}, None),
        ({"sec-fetch-site": "same-origin", "content-type": "application/json"}, None),
        ({"content-type": "application/json"}, 403),
        ({"sec-fetch-site": "none", "content-type": "application/json"}, 403),
        ({"origin": "x", "content-type": "text/plain"}, 415),
        ({"origin": "x"}, 415),
    ],
)
def test_actions_come_from_the_page(headers: dict[str, str], status: int | None) -> None:
    if status is None:
        GATEKEEPER.check_action(headers)
        return
    with pytest.raises(RefusedError) as caught:
        GATEKEEPER.check_action(headers)
    assert caught.value.status == status


def test_a_viewer_with_the_token_has_a_session() -> None:
    session, cookie = GATEKEEPER.log_in(TOKEN)
    value, *flags = cookie.split("; ")
    assert set(flags) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert value.startswith("meshtrio-9465=")
    assert TOKEN not in cookie
    for header in (value, f"a=b; {value}", f"{value}; x", f"meshtrio-9465=old; {value}"):
        assert GATEKEEPER.find_session({"cookie": header}) == session
    # Also of the next mesh with this token.
    again = Gatekeeper(GATEKEEPER.config, TOKEN)
    assert again.find_session({"cookie": value}) == session
    assert GATEKEEPER.log_in(TOKEN)[0] != session


def test_cookies_of_https_are_not_sent_without(tls_gatekeeper: Gatekeeper) -> None:
    assert "; Secure" in tls_gatekeeper.log_in(TOKEN)[1]


@pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "t", "é", "\udcff", TOKEN.upper()])
def test_wrong_tokens(token: str) -> None:
    with pytest.raises(RefusedError) as caught:
        GATEKEEPER.log_in(token)
    assert caught.value.status == 401


def test_wrong_cookies() -> None:
    _, cookie = GATEKEEPER.log_in(TOKEN)
    value = cookie.partition(";")[0]
    other = Gatekeeper(GATEKEEPER.config, "u" * 43).log_in("u" * 43)[1].partition(";")[0]
    session, _, proof = value.partition("=")[2].partition(".")
    wrong = [
        "",
        ";;=",
        value[:-1],
        other,
        value.replace("9465", "9466"),
        f"meshtrio-9465={TOKEN}",
        f"meshtrio-9465={session}",
        f"meshtrio-9465=.{proof}",
        f"meshtrio-9465=x{session}.{proof}",
        "meshtrio-9465=\xff.\xff",
    ]
    for each in wrong:
        with pytest.raises(RefusedError) as caught:
            GATEKEEPER.find_session({"cookie": each})
        assert caught.value.status == 401
    with pytest.raises(RefusedError):
        GATEKEEPER.find_session({})


def test_the_token_is_not_shown() -> None:
    assert TOKEN not in repr(GATEKEEPER)
