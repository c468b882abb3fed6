"""A group of plugins that stand or fall together, after OTP's supervisors."""

from __future__ import annotations

from enum import Enum

import attrs

from meshtrio.config.plugin import EscalationScope, at_least, check_name


class Strategy(Enum):
    """Which members are restarted with one that failed (OTP, `supervisor`)."""

    ONE_FOR_ONE = "one-for-one"
    """That one only."""
    ONE_FOR_ALL = "one-for-all"
    """All of them: stopped in reverse order, then started in order."""
    REST_FOR_ONE = "rest-for-one"
    """It and those that are listed after it."""


def _check_members(_: object, __: object, value: tuple[str, ...]) -> None:
    if not value:
        raise ValueError("must name at least one plugin or group")


def _check_escalate(_: object, __: object, value: EscalationScope) -> None:
    if value is EscalationScope.PLUGIN:
        raise ValueError('must be "group" (the one around it) or "mesh"')


@attrs.frozen
class GroupConfig:
    """Plugins and other groups. All instances of a member plugin are restarted with it."""

    name: str = attrs.field(validator=check_name)
    """As for plugins, of which none may have it, too."""
    members: tuple[str, ...] = attrs.field(converter=tuple, validator=_check_members)
    """Names of plugins and groups, in order; each is in one group at most."""
    strategy: Strategy = Strategy.ONE_FOR_ONE
    """Who is restarted with a member that failed: nobody, all members, or those listed after it.
    They are stopped in reverse of `depends_on`, and none is started before all have stopped."""
    max_restarts: int = attrs.field(default=3, validator=at_least(0))
    """How often within `restart_period` a member may give up and be started afresh; at the next
    time the group fails, too."""
    restart_period: float = attrs.field(default=60.0, validator=at_least(0, inclusive=False))
    """For `max_restarts`."""
    escalate: EscalationScope = attrs.field(
        default=EscalationScope.GROUP, validator=_check_escalate
    )
    """Who is told when it fails: the group around it, or the mesh, where there is none."""
    depends_on: tuple[str, ...] = attrs.field(default=(), converter=tuple)
    """Plugins and groups that have to be ready before any member is started."""
