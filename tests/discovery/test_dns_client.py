"""Single queries: resolv.conf, failures in words, and answers that are malformed."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from meshtrio.discovery.dns import client as client_module
from meshtrio.discovery.dns.answers import FailureKind, LookupFailedError
from meshtrio.discovery.dns.client import DnsClient
from meshtrio.discovery.dns.query_limiter import MAX_QUERIES_PER_SECOND
from meshtrio.util.dns_target import DnsTarget
from tests.support.dns_server import run_dns_server

TARGET = DnsTarget("echo.internal", 7000)
_HEADER = struct.Struct(">HHHHHH")


async def find_addresses(client: DnsClient, target: DnsTarget) -> list[str]:
    return [record.ip for record in (await client.lookup(target)).records]


async def explain(client: DnsClient, target: DnsTarget = TARGET) -> tuple[FailureKind, str]:
    with pytest.raises(LookupFailedError) as caught:
        await client.lookup(target)
    return caught.value.kind, caught.value.reason


async def test_search_domains_and_ndots_apply(short_dir: Path) -> None:
    hosts = {"echo.one.internal": ["10.0.0.1"], "echo.one": ["10.0.0.2"]}
    async with run_dns_server(short_dir, hosts) as dns:
        resolv_conf = short_dir / "resolv.conf"
        resolv_conf.write_text(
            "nameserver 192.0.2.1\nsearch none.internal one.internal internal\noptions ndots:2\n"
        )
        client = DnsClient([dns.address], resolv_conf)
        assert await find_addresses(client, DnsTarget("echo", 1)) == ["10.0.0.1"]
        # One dot is less than ndots, so that the search domains come first.
        assert await find_addresses(client, DnsTarget("echo.one", 1)) == ["10.0.0.1"]
        assert await find_addresses(client, DnsTarget("echo.one.", 1)) == ["10.0.0.2"]
        resolv_conf.write_text("nameserver 192.0.2.1\nsearch internal\n")
        client = DnsClient([dns.address], resolv_conf)
        assert await find_addresses(client, DnsTarget("echo.one", 1)) == ["10.0.0.2"]


async def test_the_server_of_a_name_overrides_others(short_dir: Path) -> None:
    async with run_dns_server(short_dir, {"echo.internal": ["10.0.0.1"]}) as dns:
        client = DnsClient(["192.0.2.1:53"])
        assert await find_addresses(client, TARGET.replace(server=dns.address)) == ["10.0.0.1"]


@pytest.mark.parametrize("content", [None, "", "nameserver\n", "search x\n", "\0\xff"])
async def test_no_name_server_is_a_failure(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "resolv.conf").write_bytes(content.encode("latin-1"))
    kind, reason = await explain(DnsClient((), tmp_path / "resolv.conf"))
    assert kind is FailureKind.ERROR
    assert reason.startswith("no name server is known")


async def test_failures_have_reasons(short_dir: Path) -> None:
    text_only = "--txt-record=text.internal,x"
    async with run_dns_server(short_dir, {"echo.internal": ["10.0.0.1"]}, text_only) as dns:
        client = DnsClient([dns.address])
        no_name = (FailureKind.NO_NAME, "there is no such name (NXDOMAIN)")
        empty = (FailureKind.EMPTY, "the answer has no addresses")
        assert await explain(client, DnsTarget("none.internal.", 1)) == no_name
        assert await explain(client, DnsTarget("_none.internal.")) == no_name
        assert await explain(client, DnsTarget("text.internal.", 1)) == empty
        assert await explain(client, DnsTarget("echo.internal.")) == empty
        refused = f"{dns.address} answered REFUSED"
        text = f"the lookup of A records of echo.example. failed: {refused}"
        assert await explain(client, DnsTarget("echo.example.", 1)) == (FailureKind.ERROR, text)


# -- malformed answers ---------------------------------------------------------------------------


@asynccontextmanager
async def name_server(make_answer: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """Answer each query by UDP with what `make_answer` makes of it."""
    sock = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
    await sock.bind(("127.0.0.1", 0))

    async def serve() -> None:
        while True:
            query, peer = await sock.recvfrom(4096)
            await sock.sendto(make_answer(query), peer)

    with sock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            yield f"127.0.0.1:{sock.getsockname()[1]}"
            nursery.cancel_scope.cancel()


def respond(query: bytes, records: bytes, *, count: int = 1, flags: int = 0x8180) -> bytes:
    """Make a response to a query, with records in wire format."""
    number, _, *_ = _HEADER.unpack_from(query)
    return _HEADER.pack(number, flags, 1, count, 0, 0) + query[12:] + records


def record(kind: int, data: bytes, *, name: bytes = b"\xc0\x0c", ttl: int = 9) -> bytes:
    return name + struct.pack(">HHIH", kind, 1, ttl, len(data)) + data


A, AAAA, SRV, CNAME = 1, 28, 33, 5
GOOD = record(A, b"\x0a\0\0\1")
MALFORMED: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda query: b"",
    "no more than an id": lambda query: query[:2],
    "garbage": lambda query: query[:2] + b"\xff" * 200,
    "a length beyond the end": lambda query: respond(query, record(A, b"\x0a\0\0\1")[:-2]),
    "an address of three bytes": lambda query: respond(query, record(A, b"\x0a\0\0")),
    "more records than there are": lambda query: respond(query, GOOD, count=60000),
    "a name that contains itself": lambda query: respond(
        query, record(CNAME, b"\xc0" + bytes([len(query) + 12]))
    ),
    "a service without a target": lambda query: respond(query, record(SRV, b"\0\1\0\1\0\1")),
    "another question": lambda query: respond(b"".join((query[:12], b"\1x", query[14:])), GOOD),
    "a rcode that nobody has": lambda query: respond(query, b"", count=0, flags=0x818E),
    "an answer for another name": lambda query: respond(
        query, record(A, b"\x0a\0\0\1", name=b"\5other\0")
    ),
}


@pytest.mark.parametrize("target", [TARGET, DnsTarget("_x._tcp.echo.internal")])
@pytest.mark.parametrize("kind", MALFORMED)
async def test_malformed_answers_are_failures(
    kind: str, target: DnsTarget, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client_module, "QUERY_TIMEOUT", 0.3)
    async with name_server(MALFORMED[kind]) as address:
        found, reason = await explain(DnsClient([address]), target.replace(name=f"{target.name}."))
    assert found in (FailureKind.ERROR, FailureKind.TIMEOUT, FailureKind.EMPTY)
    assert len(reason) <= 300


async def test_queries_are_limited_in_rate_and_number(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    started: list[float] = []
    active, most = 0, 0

    async def resolve(*_: object, **__: object) -> None:
        nonlocal active, most
        started.append(trio.current_time())
        active += 1
        most = max(most, active)
        await trio.sleep(0.5)
        active -= 1
        raise OSError("no network")

    monkeypatch.setattr("dns.asyncresolver.Resolver.resolve", resolve)
    client = DnsClient(["192.0.2.1"], tmp_path / "none")
    await explain(client)  # Reads resolv.conf in a thread, for which this clock does not wait.
    start = trio.current_time()

    async def look_up() -> None:
        await explain(client)

    async with trio.open_nursery() as nursery:
        for _ in range(200):  # Two queries each.
            nursery.start_soon(look_up)
    assert most == 32
    assert started[-1] - start == pytest.approx((400 - 100) / MAX_QUERIES_PER_SECOND, rel=0.2)
