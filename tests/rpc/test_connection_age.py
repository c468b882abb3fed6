"""The maximum age of connections (gRFC A9): its jitter, its grace period, and whom it spares."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any

import purerpc
import pytest
import trio

from meshtrio.http2.frames import FrameType
from meshtrio.rpc.connection_age import AGE_JITTER, ConnectionAge
from meshtrio.rpc.server_connection import ServerConnection
from meshtrio.rpc.timeouts import Timeouts, with_configured_ages
from meshtrio.util.concurrency import open_collapsing_nursery
from tests.support.connection_pairs import (
    CallbackServicer,
    connect_pair,
    connect_raw_peer,
    echo_request,
    run_timeouts_after,
)
from tests.support.handlers import ECHO_SERVICER, CancellationRecorder
from tests.support.raw_calls import request_headers_frame

AGED = Timeouts(max_connection_age=100, max_connection_age_grace=10)


def step_times(timeouts: Timeouts, rng: Random, until: int = 400) -> list[tuple[str, int]]:
    """Return the steps of a connection opened at 1000, and the seconds after that."""
    taken: list[tuple[str, int]] = []
    now = 0

    def record(step: str) -> Callable[[], None]:
        return lambda: taken.append((step, now))

    steps = {name: record(name) for name in ("drain", "end_calls", "close")}
    age = ConnectionAge(timeouts, 1000.0, rng, **steps)
    for now in range(until):
        age.check(1000.0 + now)
    return taken


class Middle(Random):
    def uniform(self, a: float, b: float) -> float:
        return (a + b) / 2


def test_each_step_is_taken_once() -> None:
    assert step_times(AGED, Middle()) == [("drain", 100), ("end_calls", 110), ("close", 111)]
    cut_at_once = AGED.replace(max_connection_age_grace=0)
    assert step_times(cut_at_once, Middle())[:2] == [("drain", 100), ("end_calls", 101)]
    without_grace = AGED.replace(max_connection_age_grace=math.inf)
    assert step_times(without_grace, Middle()) == [("drain", 100)]


def test_the_age_varies_by_a_tenth() -> None:
    found = {step_times(AGED, Random(seed))[0][1] for seed in range(300)}
    assert min(found) in (90, 91, 92)
    assert max(found) in (108, 109, 110)
    assert len(found) > 15
    assert AGE_JITTER == 0.1


async def check_after(connection: ServerConnection, seconds: float) -> None:
    connection.check_timeouts(trio.current_time() + seconds)
    await trio.testing.wait_all_tasks_blocked(0.01)


async def record_error(errors: list[Exception], call: Callable[[], Awaitable[Any]]) -> None:
    try:
        await call()
    except purerpc.RpcFailedError as exc:
        errors.append(exc)


async def test_calls_that_outlast_the_grace_period_end() -> None:
    handler, errors = CancellationRecorder(), list[Exception]()
    async with connect_pair(CallbackServicer(Echo=handler), timeouts=AGED) as pair:
        async with open_collapsing_nursery() as nursery:
            nursery.start_soon(record_error, errors, lambda: pair.stub.Echo(echo_request("")))
            await handler.started.wait()
            await check_after(pair.server, 111)
            assert not pair.client.is_usable
            await check_after(pair.server, 120)
            assert not errors
            await check_after(pair.server, 122)
        assert handler.cancelled.is_set()
        [error] = errors
        assert isinstance(error, purerpc.UnavailableError)
        assert "still running at the end of max_connection_age_grace" in str(error)
        await pair.wait_until_idle()
        assert pair.server.closed
        pair.assert_nothing_left()


async def test_a_handler_that_does_not_stop_does_not_keep_the_connection() -> None:
    release, errors = trio.Event(), list[Exception]()

    async def shielded(message: Any) -> None:
        with trio.CancelScope(shield=True):
            await release.wait()

    async with connect_pair(CallbackServicer(Echo=shielded), timeouts=AGED) as pair:
        async with open_collapsing_nursery() as nursery:
            nursery.start_soon(record_error, errors, lambda: pair.stub.Echo(echo_request("")))
            await pair.wait_until_idle()
            for seconds in (111, 122, 123):
                await check_after(pair.server, seconds)
            assert pair.server.closed
            release.set()
        assert isinstance(errors[0], purerpc.UnavailableError)


async def test_a_client_that_never_answers_is_closed() -> None:
    """It does not acknowledge the PING that the drain sends, and opens another call."""
    async with connect_raw_peer(ECHO_SERVICER, timeouts=AGED) as peer:
        answers = await run_timeouts_after(peer, 111)
        assert [answer[0] for answer in answers[-2:]] == [FrameType.GOAWAY, FrameType.PING]
        await peer.send(request_headers_frame(1))
        await run_timeouts_after(peer, 122)
        await run_timeouts_after(peer, 123)
        assert peer.server.closed
        peer.assert_nothing_left()


async def test_the_connections_of_a_plugins_mesh_have_no_maximum() -> None:
    async with connect_pair(ECHO_SERVICER, timeouts=AGED, trusted_pid=os.getpid()) as pair:
        assert (await pair.stub.Echo(echo_request("x"))).message == "x"
        await check_after(pair.server, 1000)
        assert pair.client.is_usable
        assert (await pair.stub.Echo(echo_request("x"))).message == "x"


def test_the_config_of_the_mesh_overrides_that_of_the_program(
    caplog: pytest.LogCaptureFixture,
) -> None:
    own = Timeouts(max_connection_age=5, max_connection_age_grace=6, frame=7)
    age, grace = "PLUGIN_MAX_CONNECTION_AGE", "PLUGIN_MAX_CONNECTION_AGE_GRACE"
    assert with_configured_ages(None, {}) is None
    assert with_configured_ages(own, {}) is own
    assert with_configured_ages(own, {age: "inf"}) == own.replace(max_connection_age=math.inf)
    assert with_configured_ages(None, {age: "60.5", grace: "0"}) == Timeouts(
        max_connection_age=60.5, max_connection_age_grace=0.0
    )
    assert not caplog.records
    for wrong in ("", "1 min", "-1", "nan"):
        caplog.clear()
        assert with_configured_ages(own, {age: wrong}) is own
        assert f"{age} is {wrong!r}, not a number of seconds; ignoring it" in caplog.text
