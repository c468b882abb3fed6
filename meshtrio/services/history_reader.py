"""Reads the lives of a `LifeStore` for replies, a part of them in each turn of the event loop."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Iterator
from itertools import pairwise
from typing import Any

import trio

from meshtrio.messages import control
from meshtrio.services.life_store import (
    LifeStore,
    Track,
    entry_end,
    entry_id,
    make_entry,
    parse_entry,
)

_MAX_REPLY_SIZE = 2 * 1024 * 1024
"""Bytes of the lives in one reply, below the length of messages that clients accept by default."""
_MAX_UPDATE_SIZE = 256 * 1024
"""Bytes of the lives in one message of a stream, which is exceeded by one life at most."""
_LIVES_PER_TURN = 500
"""Number of lives that are read before other tasks run."""


async def read_lives(
    store: LifeStore, is_wanted: Callable[[str], bool], since: float, before: int
) -> control.GetHistoryResponse:
    """Return lives of the wanted plugins and tasks; see GetHistory in control.proto."""
    entries = [
        each
        for each in await _collect(store, is_wanted, since)
        if not before or entry_id(each) < before
    ]
    size, first = 0, len(entries)
    while first and size + len(entries[first - 1]) <= _MAX_REPLY_SIZE:
        first -= 1
        size += len(entries[first])
    reply = control.GetHistoryResponse(left_out=first, **_describe(store, is_wanted))
    await _add_lives(reply.lives, entries[first:])
    return reply


async def iter_updates(
    store: LifeStore, is_wanted: Callable[[str], bool], since: float
) -> AsyncGenerator[control.HistoryUpdate, None]:
    """Yield lives of the wanted plugins and tasks in messages of a limited size, at least one."""
    entries = await _collect(store, is_wanted, since)
    update = control.HistoryUpdate(**_describe(store, is_wanted))
    for first, end in _split(entries):
        await _add_lives(update.lives, entries[first:end])
        yield update
        update = control.HistoryUpdate(time=time.time())


def _make_dropped(track: Track) -> control.DroppedLives:
    """Return the message of the lives that a track does not have any more."""
    name, number = track.key
    return control.DroppedLives(
        plugin=name, instance=number, count=track.dropped, until=track.dropped_until
    )


async def _collect(store: LifeStore, is_wanted: Callable[[str], bool], since: float) -> list[bytes]:
    """Return the lives that lasted until a time, by their ids."""
    store.expire(time.time())
    found: list[bytes] = []
    for track in [*store.tracks.values()]:
        if not is_wanted(track.key[0]):
            continue
        # Both at once, since a life may go from one to the other at a checkpoint.
        entries = [*track.past, *(make_entry(each.to_message()) for each in track.current)]
        for start in range(0, len(entries), _LIVES_PER_TURN):
            part = entries[start : start + _LIVES_PER_TURN]
            found += [each for each in part if entry_end(each) >= since]
            await trio.lowlevel.checkpoint()
    found.sort(key=entry_id)
    return found


def _describe(store: LifeStore, is_wanted: Callable[[str], bool]) -> dict[str, Any]:
    """Return what a reply has in addition to lives."""
    tracks = [each for each in store.tracks.values() if each.dropped and is_wanted(each.key[0])]
    return {
        "oldest": max((store.since, *(each.dropped_until for each in tracks))),
        "dropped": map(_make_dropped, tracks),
        "time": time.time(),
    }


def _split(entries: list[bytes]) -> Iterator[tuple[int, int]]:
    """Yield the ranges of entries that go in one message each."""
    bounds, size = [0], 0
    for number, entry in enumerate(entries):
        if size > _MAX_UPDATE_SIZE:
            bounds.append(number)
            size = 0
        size += len(entry)
    return pairwise([*bounds, len(entries)])


async def _add_lives(lives: Any, entries: list[bytes]) -> None:
    """Add lives to a message."""
    for number, entry in enumerate(entries, start=1):
        lives.append(parse_entry(entry))
        if number % _LIVES_PER_TURN == 0:
            await trio.lowlevel.checkpoint()
