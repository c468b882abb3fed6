"""What an upgrade hands over of the history of processes."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Iterator

import attrs
from google.protobuf.message import DecodeError

from meshtrio.messages import control
from meshtrio.services.life import LifeRecord
from meshtrio.services.life_store import Key, LifeStore, Track, entry_life
from meshtrio.supervisor.policy.state import InstanceState

_LENGTH = struct.Struct("<I")


@attrs.frozen(kw_only=True)
class SavedDropped:
    """The lives that a track has dropped."""

    key: Key
    count: int
    until: float


@attrs.frozen(kw_only=True)
class SavedHistory:
    """What an upgrade hands over."""

    since: float | None = None
    """Since when there is a history; None if the program before kept none."""
    last_id: int = 0
    lives: str = ""
    """All lives, those of each track by their ends: each with its length before it, all compressed,
    and in base64."""
    dropped: tuple[SavedDropped, ...] = ()


def save_history(store: LifeStore) -> SavedHistory:
    """Return what an upgrade hands over."""
    tracks = store.tracks.values()
    return SavedHistory(
        since=store.since,
        last_id=store.last_id,
        lives=_pack_lives(tracks),
        dropped=tuple(
            SavedDropped(key=each.key, count=each.dropped, until=each.dropped_until)
            for each in tracks
            if each.dropped
        ),
    )


def adopt_history(store: LifeStore, saved: SavedHistory) -> None:
    """Continue a history. Raises ValueError if it is malformed, when a part may be in the store."""
    if saved.since is None:
        return
    _unpack_lives(store, saved.lives)
    for dropped in saved.dropped:
        track = store.get(dropped.key)
        track.dropped, track.dropped_until = dropped.count, dropped.until
    for track in store.tracks.values():
        last = track.last_ended
        if last is not None and last.next_state == InstanceState.BACKOFF.value:
            track.cause = "retry" if last.is_task else "restart"
    store.since, store.last_id = saved.since, saved.last_id


def _pack_lives(tracks: Iterable[Track]) -> str:
    compressor = zlib.compressobj(1)
    parts = [compressor.compress(_LENGTH.pack(len(x)) + x) for x in _iter_lives(tracks)]
    return base64.b64encode(b"".join((*parts, compressor.flush()))).decode("ascii")


def _iter_lives(tracks: Iterable[Track]) -> Iterator[bytes]:
    for track in tracks:
        yield from map(entry_life, track.past)
        for life in track.current:
            yield life.to_message().SerializeToString()


def _unpack_lives(store: LifeStore, packed: str) -> None:
    """Add lives to a store. Raises ValueError if they are malformed."""
    last: dict[Key, control.Life] = {}
    for life in _parse_lives(packed):
        track = store.get((life.plugin, life.instance))
        if not life.HasField("ended"):
            track.current.append(LifeRecord.from_message(life))
            continue
        # The last one that has ended may still change.
        if (before := last.get(track.key)) is not None:
            track.add_past(before)
        last[track.key] = life
    for key, life in last.items():
        store.get(key).current.insert(0, LifeRecord.from_message(life))


def _parse_lives(packed: str) -> Iterator[control.Life]:
    try:
        data = zlib.decompress(base64.b64decode(packed))
        start = 0
        while start < len(data):
            (length,) = _LENGTH.unpack_from(data, start)
            start += _LENGTH.size + length
            yield control.Life.FromString(data[start - length : start])
    except (zlib.error, struct.error, DecodeError) as exc:
        raise ValueError(str(exc)) from None
