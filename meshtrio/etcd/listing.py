"""Lists the keys with a prefix, in pages that are all of one revision."""

from __future__ import annotations

from meshtrio.etcd.cluster import Cluster
from meshtrio.etcd.errors import EtcdCompactedError, EtcdTooLargeError
from meshtrio.etcd.values import KeyValue, decode_key_values, encode_prefix
from meshtrio.messages import etcd as messages

_FIRST_PAGE_KEYS, _MAX_PAGE_KEYS = 200, 2000
_PAGE_LENGTH = 512 * 1024
"""Bytes that a page should have. Half a MiB, or 2000 keys, are decoded in 6 ms, meanwhile the event
loop waits; for each page etcd counts the keys that are left, 50 ms for 100,000."""
_MAX_ATTEMPTS = 3
"""How often a list is begun again because its revision was compacted; etcd keeps those of the last
minutes, and a list takes seconds."""


async def list_prefix(
    cluster: Cluster, prefix: str, *, serializable: bool = False
) -> tuple[list[KeyValue], int]:
    """List the keys with a prefix.

    Args:
        cluster: The cluster.
        prefix: What the keys begin with; "" for all keys.
        serializable: Whether any member may answer from what it knows, which may be old.

    Returns:
        The keys in their order, and the revision of the list.

    Raises:
        EtcdError: A call failed.
        UsageError: The prefix is no valid text.
    """
    for attempt in range(1, _MAX_ATTEMPTS + 1):
        try:
            return await _list_once(cluster, prefix, serializable)
        except EtcdCompactedError:
            if attempt == _MAX_ATTEMPTS:
                raise
    raise AssertionError("not reached")


async def _list_once(
    cluster: Cluster, prefix: str, serializable: bool
) -> tuple[list[KeyValue], int]:
    operation = f"listing {prefix!r}"
    start, end = encode_prefix(prefix)
    keys: list[KeyValue] = []
    revision, limit = 0, _FIRST_PAGE_KEYS
    while True:
        request = messages.RangeRequest(
            key=start, range_end=end, limit=limit, revision=revision, serializable=serializable
        )
        try:
            page = await cluster.call(operation, "Range", request, needs_leader=not serializable)
        except EtcdTooLargeError:
            if limit == 1:
                raise
            limit = max(limit // 8, 1)
            continue
        revision = revision or page.header.revision
        keys += decode_key_values(page.keys)
        if not (page.more and page.keys):
            return keys, revision
        start = page.keys[-1].key + b"\0"
        limit = next_page_keys(limit, page.ByteSize())


def next_page_keys(limit: int, length: int) -> int:
    """Return the number of keys to ask for, after a page of `limit` keys had `length` bytes."""
    fitting = limit * _PAGE_LENGTH // max(length, 1)
    return max(min(fitting, 2 * limit, _MAX_PAGE_KEYS), 1)
