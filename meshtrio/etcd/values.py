"""What the client reports, and keys and values as text and bytes."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import NamedTuple

from meshtrio.messages import etcd as messages
from meshtrio.util.errors import UsageError
from meshtrio.util.log_once import OncePerReasonLogger
from meshtrio.util.record import FrozenRecord

_skipped_keys = OncePerReasonLogger(logging.getLogger("meshtrio.etcd"), max_reasons=20)


class KeyValue(NamedTuple):
    """A key that is present, and its value."""

    # A tuple is made in a fifth of the time of a FrozenRecord, and there may be 100,000 of them.
    key: str
    value: bytes
    lease: int
    """Id of the lease that the key ends with; 0 for none."""
    create_revision: int
    """Revision at which the key was created."""
    mod_revision: int
    """Revision at which it was last put."""


class PrefixChange(FrozenRecord):
    """A change of the keys with a prefix, or all of them."""

    is_snapshot: bool
    """Whether `puts` are all keys that there are, so that any other one is gone."""
    puts: list[KeyValue]
    """Keys that are new or were put again, each once."""
    deletes: list[str]
    """Keys that are gone."""
    revision: int
    """etcd's revision of which the keys are, after this change."""


class WatchStatus(FrozenRecord):
    """How well a watch follows etcd."""

    connected: bool
    """Whether changes are received."""
    problem: str = ""
    """Why not, as a sentence for people; "" if connected."""
    lag: float = 0.0
    """Seconds since etcd last confirmed the view, or since the watch was started if it has not."""
    revision: int = 0
    """Revision of the view; 0 without one."""
    member: str = ""
    """Endpoint of the member that is watched, or was last."""


def encode_key(key: str) -> bytes:
    """Encode a key for etcd.

    Raises:
        UsageError: It is empty, or no valid text.
    """
    try:
        data = key.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{key!r} is no key for etcd: it cannot be encoded as UTF-8") from None
    if not data:
        raise UsageError("a key for etcd must not be empty")
    return data


def encode_prefix(prefix: str) -> tuple[bytes, bytes]:
    """Return the range of the keys with a prefix: its first key, and the first key after it.

    Raises:
        UsageError: The prefix is no valid text.
    """
    if not prefix:
        return b"\0", b"\0"  # etcd's range of all keys.
    start = encode_key(prefix)
    # The last byte of UTF-8 text is never 0xff.
    return start, start[:-1] + bytes([start[-1] + 1])


def decode_key(data: bytes) -> str | None:
    """Decode a key; None, and a line in the log, for one of another program that is not UTF-8."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        _skipped_keys.log(data[:100], "etcd: skipping a key that is not UTF-8: %r", data[:100])
        return None


def decode_key_value(stored: messages.StoredKey) -> KeyValue | None:
    """Decode a stored key and value; None if the key is not UTF-8."""
    key = decode_key(stored.key)
    if key is None:
        return None
    return KeyValue(key, stored.value, stored.lease, stored.create_revision, stored.mod_revision)


def decode_key_values(stored: Iterable[messages.StoredKey]) -> list[KeyValue]:
    """Decode stored keys and values, without those whose key is not UTF-8."""
    return [each for each in map(decode_key_value, stored) if each is not None]
