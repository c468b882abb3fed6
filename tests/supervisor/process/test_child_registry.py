"""The registry of children: which are ours, and which are reaped later."""

from __future__ import annotations

import attrs

from meshtrio.supervisor.process.spawn.child_process import ChildRegistry


@attrs.define
class Child:
    is_exited: bool = False

    def try_reap(self) -> bool:
        return self.is_exited


def test_a_start_is_pending_until_its_pid_is_known() -> None:
    registry = ChildRegistry()
    registry.begin_start()
    assert (registry.pending_starts, registry.start_count) == (1, 1)
    registry.finish_start(42)
    assert (registry.pending_starts, registry.start_count) == (0, 1)
    assert registry.pids == {42}


def test_a_start_that_fails_leaves_nothing() -> None:
    registry = ChildRegistry()
    registry.begin_start()
    registry.finish_start()
    assert (registry.pending_starts, registry.start_count, registry.pids) == (0, 1, set())


def test_a_deferred_child_is_reaped_once_when_it_has_exited() -> None:
    registry, first, second = ChildRegistry(), Child(), Child()
    reaped: list[str] = []
    registry.reap_later(first, lambda: reaped.append("first"))
    registry.reap_later(second, lambda: reaped.append("second"))
    registry.reap_deferred()
    assert reaped == []
    second.is_exited = True
    registry.reap_deferred()
    assert reaped == ["second"]
    first.is_exited = True
    registry.reap_deferred()
    registry.reap_deferred()
    assert reaped == ["second", "first"]


def test_a_callback_may_defer_another_child() -> None:
    registry, late = ChildRegistry(), Child()
    registry.reap_later(Child(is_exited=True), lambda: registry.reap_later(late, lambda: None))
    registry.reap_deferred()
    late.is_exited = True
    reaped: list[str] = []
    registry.reap_later(late, lambda: reaped.append("late"))
    registry.reap_deferred()
    assert reaped == ["late"]
