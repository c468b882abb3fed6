"""Restart strategies and escalation against a small model of OTP's supervisor, after its manual."""

from __future__ import annotations

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st

from meshtrio.config import EscalationScope, GroupConfig, MeshConfig, PluginConfig, Strategy
from meshtrio.supervisor.policy.restart import (
    EscalateToMesh,
    RestartGroup,
    escalate,
    plugins_restarted_with,
)


@attrs.define
class Supervisor:
    """An OTP supervisor: children in order, a strategy, an intensity and a period."""

    name: str
    strategy: Strategy
    intensity: int
    period: float
    children: list[Supervisor | str]
    restarts: list[float] = attrs.field(factory=list)

    def leaves(self) -> list[str]:
        found: list[str] = []
        for child in self.children:
            found += [child] if isinstance(child, str) else child.leaves()
        return found

    def restarted_with(self, child: Supervisor | str) -> list[str]:
        """The manual: one_for_one only the child; one_for_all, all; rest_for_one, the rest."""
        place = self.children.index(child)
        chosen = {
            Strategy.ONE_FOR_ONE: self.children[place : place + 1],
            Strategy.ONE_FOR_ALL: self.children,
            Strategy.REST_FOR_ONE: self.children[place:],
        }[self.strategy]
        return [leaf for c in chosen for leaf in ([c] if isinstance(c, str) else c.leaves())]

    def child_died(self, leaf: str, now: float) -> list[str] | None:
        """Return what is restarted, None if this supervisor terminates instead."""
        for child in self.children:
            if child == leaf:
                break
            if isinstance(child, Supervisor) and leaf in child.leaves():
                restarted = child.child_died(leaf, now)
                if restarted is not None:
                    return restarted
                break
        # "If more than intensity restarts occur in the last period seconds, it terminates."
        kept = [time for time in self.restarts if now - time < self.period]
        if len(kept) + 1 > self.intensity:
            return None
        self.restarts = [*kept, now]
        return self.restarted_with(child)


@st.composite
def _forests(draw: st.DrawFn, depth: int = 3) -> Supervisor:
    counter = iter(range(1000))

    def supervisor(depth: int) -> Supervisor:
        children: list[Supervisor | str] = []
        for _ in range(draw(st.integers(1, 3))):
            if depth and draw(st.booleans()):
                children.append(supervisor(depth - 1))
            else:
                children.append(f"p{next(counter)}")
        return Supervisor(
            f"g{next(counter)}",
            draw(st.sampled_from(Strategy)),
            draw(st.integers(0, 3)),
            draw(st.sampled_from([5.0, 50.0])),
            children,
        )

    return supervisor(depth)


def config_of(top: Supervisor) -> MeshConfig:
    groups: list[GroupConfig] = []

    def add(supervisor: Supervisor) -> None:
        members = [c if isinstance(c, str) else c.name for c in supervisor.children]
        s = supervisor
        groups.append(GroupConfig(s.name, members, s.strategy, s.intensity, s.period))
        for child in supervisor.children:
            if isinstance(child, Supervisor):
                add(child)

    add(top)
    plugins = [
        PluginConfig(name=leaf, command=["true"], escalate=EscalationScope.GROUP)
        for leaf in top.leaves()
    ]
    return MeshConfig(plugins, groups)


@given(_forests(), st.data())
@settings(max_examples=200)
def test_failures_are_dealt_with_as_otp_would(top: Supervisor, data: st.DataObject) -> None:
    config = config_of(top)
    relations, recent, now = config.topology(), {}, 0.0
    by_name = {plugin.name: plugin for plugin in config.plugins}
    for _ in range(data.draw(st.integers(1, 12))):
        now += data.draw(st.floats(0, 20))
        leaf = data.draw(st.sampled_from(top.leaves()))
        expected = top.child_died(leaf, now)
        verdict = escalate(relations, by_name[leaf], recent, now)
        if expected is None:
            assert isinstance(verdict, EscalateToMesh)
            return
        assert isinstance(verdict, RestartGroup)
        assert list(verdict.plugins) == expected
        recent = verdict.restart_times


@given(_forests(), st.data())
@settings(max_examples=100)
def test_a_restart_takes_along_whom_the_strategy_says(top: Supervisor, data: st.DataObject) -> None:
    leaf = data.draw(st.sampled_from(top.leaves()))
    group = _parent(top, leaf)
    found = plugins_restarted_with(config_of(top).topology(), leaf)
    assert list(found) == [name for name in group.restarted_with(leaf) if name != leaf]


def _parent(top: Supervisor, leaf: str) -> Supervisor:
    if leaf in top.children:
        return top
    below = (c for c in top.children if isinstance(c, Supervisor) and leaf in c.leaves())
    return _parent(next(below), leaf)


def test_a_plugin_may_keep_its_failure_to_itself_or_take_it_to_the_mesh() -> None:
    plugins = [
        PluginConfig(name=to.value, command=["true"], escalate=to)
        for to in (EscalationScope.PLUGIN, EscalationScope.MESH)
    ]
    relations = MeshConfig(plugins, [GroupConfig("g", ["plugin", "mesh"])]).topology()
    assert escalate(relations, plugins[0], {}, 0) is None
    assert escalate(relations, plugins[1], {}, 0) == EscalateToMesh(())


def test_without_a_group_the_mesh_is_next() -> None:
    plugin = PluginConfig(name="p", command=["true"], escalate=EscalationScope.GROUP)
    assert escalate(MeshConfig([plugin]).topology(), plugin, {}, 0) == EscalateToMesh(())
