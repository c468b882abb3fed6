"""The bounded queue whose items a thread writes."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence

import pytest

from meshtrio.util.background_writer import BackgroundWriter

TIMEOUT = 10.0


class SlowSink:
    """Collects batches; each write waits until it is allowed."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.started = threading.Semaphore(0)
        self.allowed = threading.Semaphore(0)

    def write(self, batch: Sequence[str]) -> None:
        self.started.release()
        assert self.allowed.acquire(timeout=TIMEOUT)
        self.batches.append(list(batch))


def test_what_arrives_during_a_write_is_the_next_batch() -> None:
    sink = SlowSink()
    writer = BackgroundWriter(sink.write, name="test", max_size=10)
    assert writer.put("a")
    assert sink.started.acquire(timeout=TIMEOUT)
    assert writer.put("b")
    assert writer.put("c")
    assert writer.pending == 3
    sink.allowed.release(2)
    assert writer.close(TIMEOUT) == 0
    assert sink.batches == [["a"], ["b", "c"]]
    assert writer.is_closed
    assert not writer.put("d")


def test_batches_are_limited() -> None:
    sink = SlowSink()
    writer = BackgroundWriter(sink.write, name="test", max_size=10, max_batch=2)
    writer.put("a")
    assert sink.started.acquire(timeout=TIMEOUT)
    for item in "bcd":
        writer.put(item)
    sink.allowed.release(3)
    assert writer.close(TIMEOUT) == 0
    assert sink.batches == [["a"], ["b", "c"], ["d"]]


@pytest.mark.parametrize(("max_size", "max_items"), [(3, sys.maxsize), (1000, 2)])
def test_what_exceeds_a_limit_is_dropped(max_size: int, max_items: int) -> None:
    """Both limits include what is being written."""
    sink = SlowSink()
    writer = BackgroundWriter(sink.write, name="test", max_size=max_size, max_items=max_items)
    assert writer.put("aa", 2)
    assert sink.started.acquire(timeout=TIMEOUT)
    assert writer.put("b", 1)
    assert not writer.put("c", 1)
    sink.allowed.release()
    assert sink.started.acquire(timeout=TIMEOUT)
    assert writer.put("d", 1)
    sink.allowed.release(2)
    assert writer.close(TIMEOUT) == 0
    assert sink.batches == [["aa"], ["b"], ["d"]]


def test_closing_does_not_wait_longer_than_it_may() -> None:
    sink = SlowSink()
    writer = BackgroundWriter(sink.write, name="test", max_size=10)
    writer.put("a")
    assert sink.started.acquire(timeout=TIMEOUT)
    writer.put("b")
    assert writer.close(0.0) == 2
    sink.allowed.release(2)
    assert writer.close(TIMEOUT) == 0
    assert sink.batches == [["a"], ["b"]]


def test_closing_ends_the_interval_between_writes() -> None:
    sink = SlowSink()
    writer = BackgroundWriter(sink.write, name="test", max_size=10, write_interval=3600.0)
    writer.put("a")
    sink.allowed.release(2)
    assert sink.started.acquire(timeout=TIMEOUT)
    writer.put("b")
    assert writer.close(TIMEOUT) == 0
    assert [item for batch in sink.batches for item in batch] == ["a", "b"]


def test_a_write_that_fails_costs_its_batch_alone(caplog: pytest.LogCaptureFixture) -> None:
    written: list[str] = []

    def write(batch: Sequence[str]) -> None:
        if "bad" in batch:
            raise ValueError("no room")
        written.extend(batch)

    writer = BackgroundWriter(write, name="test writer", max_size=10, max_batch=1)
    for item in ("a", "bad", "b"):
        writer.put(item)
    assert writer.close(TIMEOUT) == 0
    assert written == ["a", "b"]
    assert caplog.messages == ["test writer: 1 items were not written"]
