"""The lives of processes, bounded in memory.

Theory of operation. Each instance has a track. The lives that may still change are objects: those
of processes that run, and the last one that has ended, of which the events that follow tell what
came next. Earlier ones are serialized, which takes a tenth of the memory. If all of them take more
than `_MAX_SIZE`, the oldest of the instance that takes most is dropped: a plugin that crashes in a
loop loses its own past, and not that of others. What is dropped is counted.
"""

from __future__ import annotations

import math
import struct
import sys
from collections import deque

import attrs

from meshtrio.messages import control
from meshtrio.services.life import LifeRecord

_MAX_SIZE = 20 * 1024 * 1024
"""Bytes of memory that the history may take: a day of 100 plugins that each fail every 30 s, their
maximum delay by default, would take twice as many; of those that fail once an hour, 1 MiB."""
_MAX_AGE = 24 * 3600.0
"""Seconds from its end for which a life is kept."""
_MAX_LIVES_WITH_LINES = 100
"""Number of ended lives of an instance that keep their last lines of stderr."""
_TRACK_SIZE = 2000
"""Bytes that a track takes without its lives, rounded up."""
_SLOT_SIZE = 10
_HEADER = struct.Struct("=Qd")
"""What precedes a serialized life: its id, and when it ended, or infinity."""

Key = tuple[str, int]
"""The name of a plugin or task, and the number of the instance."""


@attrs.define(eq=False)
class Track:
    """The lives of one instance, or of a task."""

    key: Key
    current: list[LifeRecord] = attrs.field(factory=list)
    """Lives that may change, by their starts."""
    past: deque[bytes] = attrs.field(factory=deque)
    """Ended lives by their ends, each after a header."""
    past_size: int = 0
    cause: str = ""
    """What the next process is started for, as far as an event has said."""
    dropped: int = 0
    """Number of lives that were dropped."""
    dropped_until: float = 0.0
    """When the last of them ended."""
    size: int = 0
    """Bytes in memory that the store has counted."""

    def find_open(self, pid: int) -> LifeRecord | None:
        """Return the life of a process that runs."""
        return next((each for each in self.current if each.pid == pid and each.ended is None), None)

    @property
    def newest_open(self) -> LifeRecord | None:
        """The life of the process that was started last, of those that run."""
        return next((each for each in reversed(self.current) if each.ended is None), None)

    @property
    def last_ended(self) -> LifeRecord | None:
        """The life that has ended last; None if it cannot change any more."""
        return next((each for each in self.current if each.ended is not None), None)

    def archive(self) -> None:
        """Move the life that has ended last to the past: it does not change any more."""
        life = self.last_ended
        if life is not None:
            self.current.remove(life)
            self.add_past(life.to_message())

    def add_past(self, life: control.Life) -> None:
        """Add an ended life to the past."""
        entry = make_entry(life)
        self.past.append(entry)
        self.past_size += _size_of(entry)
        if len(self.past) > _MAX_LIVES_WITH_LINES:
            self._strip_lines(len(self.past) - 1 - _MAX_LIVES_WITH_LINES)

    def _strip_lines(self, position: int) -> None:
        entry = self.past[position]
        life = parse_entry(entry)
        if life.last_lines:
            del life.last_lines[:]
            stripped = entry[: _HEADER.size] + life.SerializeToString()
            self.past_size += _size_of(stripped) - _size_of(entry)
            self.past[position] = stripped

    def drop_oldest(self) -> None:
        """Drop the oldest of the past lives."""
        entry = self.past.popleft()
        self.past_size -= _size_of(entry)
        self.dropped += 1
        self.dropped_until = max(self.dropped_until, entry_end(entry))

    def measure(self) -> int:
        """Return the bytes that it takes in memory, estimated."""
        return _TRACK_SIZE + self.past_size + sum(each.size for each in self.current)


class LifeStore:
    """The tracks of all instances and tasks."""

    def __init__(self, since: float) -> None:
        """Begin a history at a Unix time."""
        self.since = since
        """Since when all lives are known, except for those that tracks have dropped."""
        self.tracks: dict[Key, Track] = {}
        self.size = 0
        """Bytes that all lives take in memory, estimated."""
        self.last_id = 0

    def get(self, key: Key) -> Track:
        """Return the track of an instance, which is made if there is none."""
        track = self.tracks.get(key)
        if track is None:
            track = self.tracks[key] = Track(key)
        return track

    def add(self, track: Track, life: LifeRecord) -> None:
        """Add a life that begins."""
        track.archive()
        track.current.append(life)

    def next_id(self) -> int:
        """Return the id of a life that begins."""
        self.last_id += 1
        return self.last_id

    def settle(self, track: Track, now: float) -> None:
        """Count the memory of a track that has changed, and drop what is too old or too much."""
        self._expire(track, now)
        self._count(track)
        while self.size > _MAX_SIZE and self._drop_from_largest():
            pass

    def expire(self, now: float) -> None:
        """Drop all lives that are too old."""
        for track in [*self.tracks.values()]:
            self._expire(track, now)
            last = track.last_ended
            is_over = track.newest_open is None and not track.past
            if is_over and last is not None and _is_expired(last.ended, now):
                self._remove(track, last)
            else:
                self._count(track)

    def _expire(self, track: Track, now: float) -> None:
        while track.past and _is_expired(entry_end(track.past[0]), now):
            track.drop_oldest()

    def _count(self, track: Track) -> None:
        before, track.size = track.size, track.measure()
        self.size += track.size - before

    def _drop_from_largest(self) -> bool:
        """Drop a life of the track that takes most; return whether there was any to drop."""
        with_past = [each for each in self.tracks.values() if each.past]
        if with_past:
            track = max(with_past, key=lambda each: each.size)
            track.drop_oldest()
            self._count(track)
            return True
        for track in self.tracks.values():
            last = track.last_ended
            if last is not None and track.newest_open is None:
                self._remove(track, last)
                return True
        return False

    def _remove(self, track: Track, last: LifeRecord) -> None:
        """Remove a track without a process, of which there is but one life."""
        del self.tracks[track.key]
        self.size -= track.size
        assert last.ended is not None
        self.since = max(self.since, last.ended, track.dropped_until)


def entry_id(entry: bytes) -> int:
    """Return the id of a past life."""
    found: int = _HEADER.unpack_from(entry)[0]
    return found


def entry_end(entry: bytes) -> float:
    """Return when a past life ended."""
    found: float = _HEADER.unpack_from(entry)[1]
    return found


def entry_life(entry: bytes) -> bytes:
    """Return a past life, serialized."""
    return entry[_HEADER.size :]


def parse_entry(entry: bytes) -> control.Life:
    """Return the message of a past life."""
    return control.Life.FromString(entry_life(entry))


def make_entry(life: control.Life) -> bytes:
    """Serialize a life, after a header."""
    ended = life.ended if life.HasField("ended") else math.inf
    return _HEADER.pack(life.id, ended) + life.SerializeToString()


def _size_of(entry: bytes) -> int:
    return sys.getsizeof(entry) + _SLOT_SIZE


def _is_expired(ended: float | None, now: float) -> bool:
    return ended is not None and ended < now - _MAX_AGE
