"""A cache by identity."""

from __future__ import annotations

from meshtrio.util.caches import IdentityCache


def test_the_function_is_called_once_per_object() -> None:
    calls: list[list[int]] = []

    def function(argument: list[int]) -> int:
        calls.append(argument)
        return len(argument)

    cache = IdentityCache(function)
    first, equal = [1], [1]
    assert [cache(first), cache(first), cache(equal)] == [1, 1, 1]
    assert [id(argument) for argument in calls] == [id(first), id(equal)]


def test_the_oldest_entry_is_evicted() -> None:
    calls: list[str] = []
    cache = IdentityCache(calls.append, max_entries=2)
    for key in ("a", "b", "a", "c", "b", "a"):
        cache(key)
    assert calls == ["a", "b", "c", "a"]


def test_a_new_object_in_the_memory_of_another_has_a_result_of_its_own() -> None:
    cache = IdentityCache(tuple)
    for number in range(1000):
        assert cache([number]) == (number,)
