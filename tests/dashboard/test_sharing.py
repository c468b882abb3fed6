"""What viewers share, and what each of them has: sources, queues, sessions' authors."""

from __future__ import annotations

import os
import socket

import purerpc
import pytest
import trio
import trio.testing

from meshtrio.dashboard.author import describe_author, find_uid
from meshtrio.dashboard.pace import Pace, TotalPace
from meshtrio.dashboard.topics import Publish, Source
from meshtrio.dashboard.viewer import Viewer


async def test_a_viewer_gets_the_latest_snapshot_and_all_items() -> None:
    viewer = Viewer()
    viewer.put_snapshot("a", b"old ")
    viewer.put_snapshot("b", b"other ")
    viewer.put_snapshot("a", b"new ")
    await viewer.put("event", {"n": 1})
    await viewer.put("event", {"n": 2})
    assert await viewer.take(60) == (
        b'new other event: event\ndata: {"n":1}\n\nevent: event\ndata: {"n":2}\n\n'
    )


async def test_a_viewer_without_news_gets_nothing_in_time(autojump_clock: None) -> None:
    assert await Viewer().take(15) == b""
    assert trio.current_time() == 15


@pytest.mark.parametrize("size", [10, 10_000, 1_000_000])
async def test_the_queue_of_a_viewer_is_bounded(size: int, autojump_clock: None) -> None:
    viewer, count = Viewer(), 0

    async def write() -> None:
        nonlocal count
        while True:
            await viewer.put("log", "x" * size)
            count += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        await trio.testing.wait_all_tasks_blocked()
        assert 1 <= count <= 250
        assert count * size < 300_000 + size
        first = count
        assert len(await viewer.take(60)) > first * size
        await trio.testing.wait_all_tasks_blocked()
        # There was room again.
        assert count == 2 * first
        nursery.cancel_scope.cancel()


async def test_all_that_wait_for_room_have_their_turns(autojump_clock: None) -> None:
    viewer, counts = Viewer(), [0, 0, 0]

    async def write(number: int) -> None:
        while True:
            await viewer.put("log", "x" * 1000)
            counts[number] += 1

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(write, number)
        for _ in range(5):
            before = [*counts]
            await trio.testing.wait_all_tasks_blocked()
            await viewer.take(60)
            await trio.testing.wait_all_tasks_blocked()
            assert all(now >= old + 50 for now, old in zip(counts, before, strict=True))
        nursery.cancel_scope.cancel()


async def test_a_stream_ends_after_what_is_queued() -> None:
    viewer = Viewer()
    await viewer.put("event", 1)
    viewer.end()
    assert viewer.has_ended
    assert await viewer.take(60)
    assert await viewer.take(60) == b""


class Collector:
    """Collects numbers; counts how often it was started and has ended."""

    def __init__(self) -> None:
        self.started: list[set[str]] = []
        self.running = 0

    async def collect(self, wanted: frozenset[str], publish: Publish) -> None:
        self.started.append(set(wanted))
        self.running += 1
        try:
            for number in range(1000):
                for name in wanted:
                    publish(name, {"n": number})
                await trio.sleep(1)
        finally:
            self.running -= 1


async def test_a_source_collects_what_is_wanted_while_it_is(autojump_clock: None) -> None:
    collector, one, other = Collector(), Viewer(), Viewer()
    async with trio.open_nursery() as nursery:
        source = Source(["a", "b"], collector.collect, nursery)
        await trio.sleep(10)
        assert collector.started == []
        with source.subscribed(one, ["a", "x"]):
            await trio.sleep(2.5)
            assert await one.take(0) == b'event: a\ndata: {"n":2}\n\n'
            with source.subscribed(other, ["a"]):
                # The latest, without another collection.
                assert await other.take(0) == b'event: a\ndata: {"n":2}\n\n'
                await trio.sleep(1)
                assert await one.take(0) == await other.take(0)
                assert collector.started == [{"a"}]
            with source.subscribed(other, ["b"]):
                await trio.sleep(0.5)
                assert await other.take(0) == b'event: b\ndata: {"n":0}\n\n'
                assert (collector.started, collector.running) == ([{"a"}, {"a", "b"}], 1)
        await trio.sleep(1)
        assert collector.started == [{"a"}, {"a", "b"}, {"a"}]
        assert collector.running == 0
        with source.subscribed(one, ["a"]):
            # Nothing of before.
            assert await one.take(0.5) == b'event: a\ndata: {"n":0}\n\n'


async def test_what_fails_is_told_once_and_tried_again(
    autojump_clock: None, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = 0

    async def fail(wanted: frozenset[str], publish: Publish) -> None:
        nonlocal attempts
        attempts += 1
        if attempts <= 3:
            raise purerpc.FailedPreconditionError("no etcd")
        if attempts == 4:
            raise ExceptionGroup("several", [KeyError("a bug")])
        publish("a", {"n": attempts})
        await trio.sleep_forever()

    viewer, late = Viewer(), Viewer()
    async with trio.open_nursery() as nursery:
        source = Source(["a"], fail, nursery)
        with source.subscribed(viewer, ["a"]):
            first = await viewer.take(1)
            assert b'event: problem\ndata: {"stream":"a","code":"FAILED_PRECONDITION"' in first
            with source.subscribed(late, ["a"]):
                assert await late.take(0) == first
            assert b'"INTERNAL"' in await viewer.take(60)
            assert attempts == 4
            assert await viewer.take(60) == b'event: a\ndata: {"n":5}\n\n'
    assert "a bug" in caplog.text


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_the_author_on_this_machine_has_a_user(family: int) -> None:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server((host, 0), family=family) as server:
        with socket.create_connection(server.getsockname()[:2]):
            accepted, _ = server.accept()
            with accepted:
                near, far = accepted.getpeername()[:2], accepted.getsockname()[:2]
                assert find_uid(near, far) == os.getuid()
                assert find_uid(near, (far[0], 1)) is None
                author = await describe_author("s1", near, far)
                assert author.startswith(f"viewer s1 at {host}, user ")
    assert (
        await describe_author("s1", ("192.0.2.1", 5), ("192.0.2.2", 6)) == "viewer s1 at 192.0.2.1"
    )


async def test_viewers_share_the_total_rate_in_turns(autojump_clock: None) -> None:
    """Of 20 viewers with more than they get, each gets as much; what is rare does not wait."""
    total, counts, rare = TotalPace(), [0] * 20, 0

    async def read(number: int) -> None:
        pace = Pace(total)
        while True:
            await pace.wait()
            counts[number] += 1
            await trio.lowlevel.checkpoint()

    async def read_rare() -> None:
        nonlocal rare
        pace = Pace(None)
        while True:
            await trio.sleep(0.1)
            await pace.wait()
            rare += 1

    with trio.move_on_after(30):
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(read, number)
            nursery.start_soon(read_rare)
    assert 0.8 * 85_000 < sum(counts) < 1.2 * 85_000
    assert min(counts) > 0.8 * max(counts)
    assert rare > 280
