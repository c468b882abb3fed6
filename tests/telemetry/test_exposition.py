"""Metrics over HTTP: what is answered to who asks for something else, and when there is a bug."""

from __future__ import annotations

import contextlib

import pytest
import trio

from meshtrio.structured import running
from meshtrio.telemetry.families import Family
from meshtrio.telemetry.metrics.exposition import expose
from tests.system.scrapes import free_port


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
    async def gather(within: float | None) -> list[Family]:
        raise RuntimeError("a bug")

    where = f"127.0.0.1:{free_port()}"
    async with running(expose, gather, f"tcp:{where}"):
        host, port = where.split(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            with trio.fail_after(30), contextlib.suppress(trio.BrokenResourceError):
                await stream.send_all(said)
                answer = b"".join([data async for data in stream])
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert (b"the log says why" in answer) is (status == 500 and said.startswith(b"GET"))
    assert ("metrics could not be told" in caplog.text) is (status == 500)
