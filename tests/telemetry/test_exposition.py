"""Metrics over HTTP: what is answered to who asks for something else, and when there is a bug."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

from meshtrio.telemetry.metric_families import (
    MetricFamily,
    MetricKind,
    MetricPoint,
    gauge_family,
)
from meshtrio.telemetry.metrics.exposition_server import ScrapeCoalescer, serve_metrics
from meshtrio.util.concurrency import background_service
from tests.support.ports import find_free_port


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n", 500),
        (b"HEAD /metrics HTTP/1.1\r\nhost: x\r\n\r\n", 500),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", 404),
        (b"POST /metrics HTTP/1.1\r\nhost: x\r\n\r\n", 405),
        (b"GET /metrics HTTP/1.1\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00 a TLS hello\r\n\r\n", 400),
        (b"GET /" + b"x" * 100_000, 431),
    ],
)
async def test_whatever_is_asked_has_an_answer(
    said: bytes, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def gather(within: float | None) -> list[MetricFamily]:
        raise RuntimeError("a bug")

    where = f"127.0.0.1:{find_free_port()}"
    async with background_service(serve_metrics, gather, f"tcp:{where}"):
        host, port = where.split(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            with trio.fail_after(30), contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(said)
                answer = b"".join([data async for data in stream])
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"see the log" in answer) is (status == 500 and said.startswith(b"GET"))
    assert ("collecting metrics failed" in caplog.text) is (status == 500)


REQUEST = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
SOON = 0.5


@asynccontextmanager
async def asking(
    body_size: int, *, gathered_after: float = 0.0
) -> AsyncIterator[trio.SocketStream]:
    """Connect to metrics of at least that size, which are not waited for longer than SOON."""

    async def gather(within: float | None) -> list[MetricFamily]:
        await trio.sleep(gathered_after)
        return [gauge_family("a", "", "x" * body_size, {(): 1.0})]

    where = f"127.0.0.1:{find_free_port()}"
    with trio.fail_after(60):
        async with background_service(
            partial(serve_metrics, idle_timeout=SOON), gather, f"tcp:{where}"
        ):
            host, port = where.split(":")
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                yield stream


async def test_metrics_that_take_long_are_sent_whole() -> None:
    """Of 9,000 families, on a machine with other things to do."""
    async with asking(100_000, gathered_after=3 * SOON) as stream:
        await stream.send_all(REQUEST)
        answer = b"".join([data async for data in stream])
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\na 1.0\n")


async def test_who_reads_slowly_is_sent_all_of_it() -> None:
    size = 16 * 1024 * 1024
    async with asking(size) as stream:
        await stream.send_all(REQUEST)
        answer, began = bytearray(), trio.current_time()
        while data := await stream.receive_some(1024 * 1024):
            answer += data
            if trio.current_time() < began + 3 * SOON:
                await trio.sleep(SOON / 5)
    assert len(answer) > size
    assert answer.endswith(b"\na 1.0\n")


@pytest.mark.parametrize(
    "request_sent", [REQUEST, REQUEST[:20], b""], ids=["reads", "half", "asks"]
)
async def test_who_does_nothing_is_disconnected(request_sent: bytes) -> None:
    async with asking(64 * 1024 * 1024) as stream:
        await stream.send_all(request_sent)
        began = trio.current_time()
        if request_sent == REQUEST:
            await stream.receive_some(1)
            await trio.sleep(4 * SOON)
        with contextlib.suppress(trio.BrokenResourceError):
            taken = sum([len(data) async for data in stream])
            assert taken < 64 * 1024 * 1024
        assert trio.current_time() - began > SOON / 2


async def test_those_who_wait_for_a_scrape_share_the_next() -> None:
    """However many ask, a mesh asks its plugins once at a time."""
    gathered, going_on = 0, trio.Event()

    async def gather(within: float | None) -> list[MetricFamily]:
        nonlocal gathered
        gathered += 1
        number = gathered
        await going_on.wait()
        return [gauge_family("number", "", "", {(): number})]

    scrapes, texts = ScrapeCoalescer(gather), []

    async def ask(accept: str) -> None:
        texts.append(await scrapes.scrape(None, accept, use_gzip=False))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "")
            await trio.testing.wait_all_tasks_blocked()
            for accept in ("", "application/openmetrics-text; version=1.0.0") * 10:
                nursery.start_soon(ask, accept)
            await trio.testing.wait_all_tasks_blocked()
            going_on.set()
        assert gathered == 2
        first, *others = (text for _, text in texts)
        assert b"number 1.0" in first
        assert all(b"number 2.0" in text for text in others)
        assert {kind.partition(";")[0] for kind, _ in texts} == {
            "text/plain",
            "application/openmetrics-text",
        }
        await ask("")
        assert gathered == 3


async def test_who_stops_waiting_for_a_scrape_leaves_nothing_old_behind() -> None:
    entered, going_on, gathered = trio.Event(), trio.Event(), 0

    async def gather(within: float | None) -> list[MetricFamily]:
        nonlocal gathered
        gathered += 1
        entered.set()
        await going_on.wait()
        return [gauge_family("number", "", "", {(): gathered})]

    scrapes = ScrapeCoalescer(gather)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(scrapes.scrape, None, "", use_gzip=False))
            await entered.wait()
            nursery.cancel_scope.cancel()
        going_on.set()
        _, text = await scrapes.scrape(None, "", use_gzip=False)
    assert b"number 2.0" in text


async def test_what_cannot_be_written_costs_no_other() -> None:
    odd = MetricFamily("odd", MetricKind.GAUGE, "", "", [MetricPoint((("label", "\ud800"),), 1)])

    async def gather(within: float | None) -> list[MetricFamily]:
        return [odd, gauge_family("number", "", "", {(): 1})]

    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        _, text = await ScrapeCoalescer(gather).scrape(None, accept, use_gzip=False)
        assert b"number 1.0" in text
        assert text.endswith(b"# EOF\n") == bool(accept)
