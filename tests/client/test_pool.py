"""What channels share: a feed that fails is begun again."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from meshtrio.client.subchannel_pool import StateCallback, SubchannelPool
from meshtrio.discovery.endpoint import ServiceState


async def test_a_feed_that_fails_is_begun_again(caplog: pytest.LogCaptureFixture) -> None:
    began = 0
    told: list[ServiceState] = []
    informed, ended = trio.Event(), trio.Event()

    async def feed(update: StateCallback) -> None:
        nonlocal began
        began += 1
        if began < 4:
            raise RuntimeError("a bug")
        update(ServiceState())
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    def take(state: ServiceState) -> None:
        told.append(state)
        informed.set()

    with trio.fail_after(30):
        async with SubchannelPool(restart_delay=0.001) as shared:
            shared.subscribe("key", feed, take)
            await informed.wait()
            shared.unsubscribe("key", take)
            await ended.wait()
    assert told == [ServiceState()]
    assert caplog.text.count("a task of the connection pool crashed") == 3
    assert "CancelScope" not in caplog.text


async def test_a_feed_that_nobody_wants_any_more_is_not_begun() -> None:
    async def feed(update: StateCallback) -> None:
        raise AssertionError("nobody wants it")

    def take(state: ServiceState) -> None:
        """Nothing comes."""

    async with SubchannelPool(restart_delay=0.001) as shared:
        shared.subscribe("key", feed, take)
        shared.unsubscribe("key", take)
        await trio.testing.wait_all_tasks_blocked()
