"""What endpoints cost that nothing listens at: a registry may list thousands of them."""

from __future__ import annotations

import socket
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio.client.channel import open_channel
from meshtrio.client.subchannel import DialLimiter
from meshtrio.discovery.endpoint import REGISTERED_RECONNECT_BACKOFF, Endpoint
from meshtrio.discovery.static import make_external_endpoint
from meshtrio.http2 import frames
from meshtrio.transport.transport import Transport
from tests.support.connection_pairs import echo_request, static_resolver
from tests.support.servers import serve_on_socket

DEAD = 2000


def dead_endpoints() -> list[Endpoint]:
    found = (make_external_endpoint(f"unix:/nowhere/{number}") for number in range(DEAD))
    return [each.replace(id=f"{each.id} #{n}") for n, each in enumerate(found)]


class RefusingDialer:
    """Replaces `dial`: counts attempts, all of which are refused."""

    def __init__(self, takes: float = 0.0) -> None:
        self.attempts: Counter[str] = Counter()
        self.under_way = self.most_under_way = 0
        self._takes = takes

    async def __call__(self, address: str, *_: object, **__: object) -> Any:
        self.attempts[address] += 1
        self.under_way += 1
        self.most_under_way = max(self.under_way, self.most_under_way)
        try:
            await trio.sleep(self._takes)
            raise ConnectionRefusedError(111, "Connection refused")
        finally:
            self.under_way -= 1


async def test_dead_endpoints_are_tried_ever_more_seldom(
    autojump_clock: trio.testing.MockClock,
) -> None:
    dials = RefusingDialer()
    async with open_channel("dead", static_resolver(*dead_endpoints()), dialer=dials):
        await trio.sleep(5)
        # Each has been tried, and was so again at the pool's rate for all of them.
        assert len(dials.attempts) == DEAD
        assert dials.attempts.total() <= DEAD + 100 + 5 * 100 + 1
    dials.attempts.clear()
    async with open_channel("dead", static_resolver(*dead_endpoints()[:100]), dialer=dials):
        await trio.sleep(600)
        before = dials.attempts.total()
        await trio.sleep(1200)
        # By then each waits 120 s, a fifth less at the least, and no one was given up.
        assert dials.attempts.total() - before <= 100 * 1200 / (120 * 0.8) + 100
        assert all(count > 20 for count in dials.attempts.values())
    assert dials.most_under_way <= 16


async def test_attempts_at_once_are_bounded_across_a_network(
    autojump_clock: trio.testing.MockClock,
) -> None:
    dials = RefusingDialer(takes=5)
    endpoints = [make_external_endpoint(f"tcp:host-{number}:1") for number in range(500)]
    async with open_channel("dead", static_resolver(*endpoints), dialer=dials):
        await trio.sleep(60)
    assert dials.most_under_way == 64
    assert len(dials.attempts) == 500


@pytest.mark.parametrize(
    "endpoint",
    [Endpoint("unix:/nowhere", "unix:/nowhere"), Endpoint("a", "unix:/nowhere", pid=1)],
    ids=["by address", "run by the mesh"],
)
async def test_what_the_mesh_runs_and_what_was_named_is_found_soon(
    endpoint: Endpoint, autojump_clock: trio.testing.MockClock
) -> None:
    dials = RefusingDialer()
    async with open_channel("one", static_resolver(endpoint), dialer=dials):
        await trio.sleep(600)
        before = dials.attempts.total()
        await trio.sleep(60)
        assert dials.attempts.total() - before >= 60 / 0.6


async def test_one_that_ends_every_connection_is_backed_off_from(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It speaks HTTP/2, and closes as soon as it is connected to."""
    dials = 0

    async def dial(*_: object, **__: object) -> Transport:
        nonlocal dials
        dials += 1
        await trio.lowlevel.checkpoint()
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            theirs.sendall(frames.settings({}))
        return Transport(ours)

    async with open_channel(
        "closing", static_resolver(make_external_endpoint("unix:/somewhere")), dialer=dial
    ):
        await trio.sleep(600)
        # 20 ms, and 1.6 times as long each time, up to two minutes.
        assert 15 < dials < 40


async def test_one_that_lives_among_dead_ones_is_called(short_dir: Path) -> None:
    alive = make_external_endpoint(f"unix:{short_dir / 'alive'}")
    async with serve_on_socket(short_dir / "alive"):
        endpoints = dead_endpoints()
        endpoints.insert(DEAD // 2, alive)
        with trio.fail_after(120):
            async with open_channel("mixed", static_resolver(*endpoints)) as channel:
                for _ in range(10):
                    reply = await channel.stub(EchoServiceStub).Echo(echo_request("?"))
                    assert reply.message == "alive"


def test_the_backoff_is_grpcs_from_20_ms_to_120_s() -> None:
    rng = Random(1)
    delays = [REGISTERED_RECONNECT_BACKOFF.delay(failures, rng) for failures in (1, 2, 10, 100)]
    for delay, plain in zip(delays, (0.02, 0.032, 0.02 * 1.6**9, 120), strict=True):
        assert plain * 0.8 <= delay <= plain * 1.2


def test_retries_have_a_burst_and_then_their_rate() -> None:
    limiter, endpoint = DialLimiter(), make_external_endpoint("unix:/nowhere")
    times = [limiter.reserve_retry_time(endpoint, 1000.0) for _ in range(301)]
    assert times[99] == 1000.0
    assert times[300] == pytest.approx(1002.0, abs=0.02)
    assert limiter.reserve_retry_time(endpoint, 5000.0) == 5000.0


@pytest.mark.parametrize(
    "other",
    [
        Endpoint("a", "unix:/other", pid=1),
        Endpoint("unix:/other", "unix:/other"),
        make_external_endpoint("unix:/other").replace(server_uid=8),
        make_external_endpoint("unix:/other"),
    ],
    ids=["run by the mesh", "by address", "of another registrar", "of the config"],
)
async def test_a_registrars_endpoints_that_never_accept_delay_no_others(
    other: Endpoint, autojump_clock: trio.testing.MockClock
) -> None:
    """Their backlogs are full, so that each attempt waits for room for seconds."""
    dials = RefusingDialer(takes=5)
    full = [each.replace(server_uid=7) for each in dead_endpoints()[:500]]
    async with open_channel("full", static_resolver(*full), dialer=dials):
        await trio.sleep(1)
        async with open_channel("other", static_resolver(other), dialer=dials):
            await trio.testing.wait_all_tasks_blocked()
            assert dials.attempts["unix:/other"] == 1
    assert dials.most_under_way <= 17
