"""The LRU cache of `meshtrio.util`."""

from __future__ import annotations

from meshtrio.util.caches import BoundedCache


def test_the_least_recently_used_entry_is_evicted() -> None:
    cache = BoundedCache[str, int](2)
    cache["a"], cache["b"] = 1, 2
    assert cache.get("a") == 1
    cache["c"] = 3
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)
    assert len(cache) == 2


def test_setting_a_value_again_evicts_nothing_and_counts_as_use() -> None:
    cache = BoundedCache[str, int](2)
    cache["a"], cache["b"], cache["a"] = 1, 2, 3
    assert len(cache) == 2
    cache["c"] = 4
    assert (cache.get("a"), cache.get("b")) == (3, None)


def test_clearing_removes_all() -> None:
    cache = BoundedCache[str, int](2)
    cache["a"] = 1
    cache.clear()
    assert cache.get("a") is None
    assert len(cache) == 0
