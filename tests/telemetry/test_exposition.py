"""Metrics over HTTP: what is answered to who asks for something else, and when there is a bug."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from unittest.mock import patch

import pytest
import trio
import trio.testing

from meshtrio.telemetry.metric_families import MetricFamily, MetricKind, MetricPoint
from meshtrio.telemetry.metrics import exposition_server
from meshtrio.telemetry.metrics.exposition_server import (
    CollectFamilies,
    ScrapeCoalescer,
    serve_metrics,
)
from meshtrio.util.concurrency import background_service
from tests.support.ports import find_free_port


@asynccontextmanager
async def connected_to_metrics(
    gather: CollectFamilies, **limits: float
) -> AsyncIterator[trio.SocketStream]:
    """Serve what `gather` gives during the block; yields a connection to it."""
    address = f"127.0.0.1:{find_free_port()}"
    with trio.fail_after(60), patch.dict(vars(exposition_server), limits):
        async with background_service(serve_metrics, gather, f"tcp:{address}"):
            host, port = address.split(":")
            async with await trio.open_tcp_stream(host, int(port)) as stream:
                yield stream


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

    async with connected_to_metrics(gather) as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(said)
            answer = b"".join([data async for data in stream])
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"see the log" in answer) is (status == 500 and said.startswith(b"GET"))
    assert ("collecting metrics failed" in caplog.text) is (status == 500)


REQUEST = b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n"
IDLE_TIMEOUT = 0.5


def gather_metrics(size: int, *, delay: float = 0.0) -> CollectFamilies:
    """Return what gives metrics of at least `size` bytes after `delay` seconds."""

    async def gather(within: float | None) -> list[MetricFamily]:
        await trio.sleep(delay)
        return [MetricFamily.gauge("a", "", "x" * size, {(): 1.0})]

    return gather


async def test_a_response_is_complete_although_gathering_took_longer_than_the_idle_timeout() -> (
    None
):
    gather = gather_metrics(100_000, delay=3 * IDLE_TIMEOUT)
    async with connected_to_metrics(gather, _IDLE_TIMEOUT=IDLE_TIMEOUT) as stream:
        await stream.send_all(REQUEST)
        answer = b"".join([data async for data in stream])
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"\na 1.0\n")


async def test_a_slow_reader_receives_the_whole_response() -> None:
    size = 16 * 1024 * 1024
    async with connected_to_metrics(gather_metrics(size), _IDLE_TIMEOUT=IDLE_TIMEOUT) as stream:
        await stream.send_all(REQUEST)
        answer, began = bytearray(), trio.current_time()
        while data := await stream.receive_some(1024 * 1024):
            answer += data
            if trio.current_time() < began + 3 * IDLE_TIMEOUT:
                await trio.sleep(IDLE_TIMEOUT / 5)
    assert len(answer) > size
    assert answer.endswith(b"\na 1.0\n")


@pytest.mark.parametrize("limit", ["_IDLE_TIMEOUT", "_SEND_TIMEOUT"])
async def test_a_client_that_stops_reading_is_disconnected(limit: str) -> None:
    size = 64 * 1024 * 1024
    async with connected_to_metrics(gather_metrics(size), **{limit: IDLE_TIMEOUT}) as stream:
        await stream.send_all(REQUEST)
        await stream.receive_some(1)
        await trio.sleep(4 * IDLE_TIMEOUT)
        received = 0
        with contextlib.suppress(trio.BrokenResourceError):
            while data := await stream.receive_some(1024 * 1024):
                received += len(data)
    assert received < size


@pytest.mark.parametrize("sent", [b"", REQUEST[:20]], ids=["nothing", "half a request"])
async def test_a_client_that_sends_no_request_is_disconnected(sent: bytes) -> None:
    async with connected_to_metrics(gather_metrics(1), _IDLE_TIMEOUT=IDLE_TIMEOUT) as stream:
        await stream.send_all(sent)
        assert await stream.receive_some() == b""


async def test_a_timeout_of_a_source_is_an_error_of_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def gather(within: float | None) -> list[MetricFamily]:
        raise trio.TooSlowError

    async with connected_to_metrics(gather) as stream:
        await stream.send_all(REQUEST)
        answer = b"".join([data async for data in stream])
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert "collecting metrics failed" in caplog.text


async def test_those_who_wait_for_a_scrape_share_the_next() -> None:
    """However many ask, a mesh asks its plugins once at a time."""
    gathered, going_on = 0, trio.Event()

    async def gather(within: float | None) -> list[MetricFamily]:
        nonlocal gathered
        gathered += 1
        number = gathered
        await going_on.wait()
        return [MetricFamily.gauge("number", "", "", {(): number})]

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
        return [MetricFamily.gauge("number", "", "", {(): gathered})]

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
        return [odd, MetricFamily.gauge("number", "", "", {(): 1})]

    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        _, text = await ScrapeCoalescer(gather).scrape(None, accept, use_gzip=False)
        assert b"number 1.0" in text
        assert text.endswith(b"# EOF\n") == bool(accept)
