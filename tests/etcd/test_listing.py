"""Lists in pages, of a cluster that is a script."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from meshtrio.etcd.errors import EtcdCompactedError, EtcdTooLargeError
from meshtrio.etcd.listing import list_prefix, next_page_keys
from meshtrio.messages import etcd as messages


class ScriptedCluster:
    """Gives each answer of a script, which may be an error, once, and keeps the requests."""

    def __init__(self, script: Sequence[Any]) -> None:
        self._script = list(script)
        self.requests: list[Any] = []

    async def call(self, operation: str, method: str, request: Any, *, needs_leader: bool) -> Any:
        self.requests.append(request)
        assert method == "Range"
        assert needs_leader is not request.serializable
        answer = self._script.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def page(revision: int, *keys: bytes, more: bool) -> Any:
    stored = [messages.StoredKey(key=key) for key in keys]
    header = messages.ResponseHeader(revision=revision)
    return messages.RangeResponse(header=header, keys=stored, more=more)


async def list_script(*script: Any, serializable: bool = False) -> tuple[list[str], int, list[Any]]:
    cluster: Any = ScriptedCluster(script)
    keys, revision = await list_prefix(cluster, "p/", serializable=serializable)
    return [each.key for each in keys], revision, cluster.requests


@pytest.mark.parametrize("serializable", [True, False])
async def test_all_pages_are_of_the_revision_of_the_first(serializable: bool) -> None:
    keys, revision, requests = await list_script(
        page(7, b"p/a", b"p/b", more=True),
        page(9, b"p/c", more=True),
        page(9, more=True),
        serializable=serializable,
    )
    assert (keys, revision) == (["p/a", "p/b", "p/c"], 7)
    assert [(each.key, each.range_end, each.revision) for each in requests] == [
        (b"p/", b"p0", 0),
        (b"p/b\0", b"p0", 7),
        (b"p/c\0", b"p0", 7),
    ]


async def test_a_page_that_is_too_large_is_asked_for_with_fewer_keys() -> None:
    too_large = EtcdTooLargeError("listing", "too large")
    _, _, requests = await list_script(too_large, too_large, page(7, b"p/a", more=False))
    assert [each.limit for each in requests] == [200, 25, 3]
    with pytest.raises(EtcdTooLargeError):
        await list_script(*[too_large] * 4)


async def test_a_list_whose_revision_is_compacted_begins_again() -> None:
    compacted = EtcdCompactedError("listing", "compacted")
    first = page(7, b"p/a", more=True)
    keys, revision, requests = await list_script(first, compacted, page(9, b"p/c", more=False))
    assert (keys, revision) == (["p/c"], 9)
    assert requests[-1].revision == 0
    with pytest.raises(EtcdCompactedError):
        await list_script(*[first, compacted] * 3)


def test_pages_grow_with_small_values_and_shrink_with_large_ones() -> None:
    assert next_page_keys(200, 200 * 100) == 400
    assert next_page_keys(1600, 1600 * 100) == 2000
    assert next_page_keys(200, 200 * 10_000) == 52
    assert next_page_keys(1, 10_000_000) == 1
    assert next_page_keys(1, 0) == 2
