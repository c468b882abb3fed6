"""What an upgrade hands over of the lives of processes."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError

from meshtrio.messages import control
from meshtrio.services.life import LifeRecord
from meshtrio.services.life_store import Key, LifeStore, Track, entry_life

_LENGTH = struct.Struct("<I")


def pack_lives(tracks: Iterable[Track]) -> str:
    """Serialize lives, those of each track by their ends: each with its length before it, all
    compressed, and in base64."""
    compressor = zlib.compressobj(1)
    parts = [compressor.compress(_LENGTH.pack(len(x)) + x) for x in _iter_lives(tracks)]
    return base64.b64encode(b"".join((*parts, compressor.flush()))).decode("ascii")


def _iter_lives(tracks: Iterable[Track]) -> Iterator[bytes]:
    for track in tracks:
        yield from map(entry_life, track.past)
        for life in track.current:
            yield life.to_message().SerializeToString()


def unpack_lives(store: LifeStore, packed: str) -> None:
    """Add the lives of `pack_lives` to a store. Raises ValueError if they are malformed."""
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
