"""When malloc is tuned: only in processes that allow it, once, and not against the environment."""

from __future__ import annotations

from typing import Any

import pytest

from meshtrio.util.malloc_tuning import MallocTuning


class FakeLibc:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def find(self, name: str) -> Any:
        return lambda *args: self.calls.append((name, *args))


async def test_a_process_that_embeds_a_server_keeps_its_malloc() -> None:
    libc = FakeLibc()
    tuning = MallocTuning(libc.find, {})
    tuning.tune()
    await tuning.trim()
    assert libc.calls == []
    assert not tuning.is_allowed


async def test_malloc_is_tuned_once_and_trimmed_each_time() -> None:
    libc = FakeLibc()
    tuning = MallocTuning(libc.find, {})
    tuning.enable()
    for _ in range(2):
        tuning.tune()
        await tuning.trim()
    assert [name for name, *_ in libc.calls] == ["mallopt", "mallopt", "malloc_trim", "malloc_trim"]


@pytest.mark.parametrize("variable", ["MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES"])
def test_the_environment_overrides_the_tuning(variable: str) -> None:
    libc = FakeLibc()
    tuning = MallocTuning(libc.find, {variable: "1"})
    assert tuning.is_allowed
    tuning.enable()
    tuning.tune()
    assert libc.calls == []


async def test_another_libc_than_glibc_is_left_alone() -> None:
    tuning = MallocTuning(lambda name: None, {})
    tuning.enable()
    tuning.tune()
    await tuning.trim()
