"""Groups of plugins that are restarted together, after OTP's supervisors."""

from __future__ import annotations

from enum import Enum

import attrs

from meshtrio.config.plugin import EscalationScope, check_name
from meshtrio.config.validators import at_least, is_positive, require, to_strings


class Strategy(Enum):
    """Which members are restarted with one that failed (OTP, `supervisor`)."""

    ONE_FOR_ONE = "one-for-one"
    """Only the failed member is restarted."""
    ONE_FOR_ALL = "one-for-all"
    """All members are restarted: stopped in reverse order, then started in order."""
    REST_FOR_ONE = "rest-for-one"
    """The failed member and those listed after it are restarted."""


@attrs.frozen
class GroupConfig:
    """A group of plugins and other groups; all instances of a member are restarted with it."""

    name: str = attrs.field(validator=check_name)
    """Name of the group, with the syntax of plugin names; no plugin may have it too."""
    members: tuple[str, ...] = attrs.field(
        converter=to_strings, validator=require(len, "must name at least one plugin or group")
    )
    """Names of plugins and groups, in order; each may be in at most one group."""
    strategy: Strategy = Strategy.ONE_FOR_ONE
    """Which members are restarted with one that failed: none, all, or those listed after it. They
    are stopped in reverse of `depends_on`, and none is started before all have stopped."""
    max_restarts: int = attrs.field(default=3, validator=at_least(0))
    """Number of restarts of the group within `restart_period`; at the next failure of a member the
    group fails too."""
    restart_period: float = attrs.field(default=60.0, validator=is_positive)
    """Seconds within which `max_restarts` are counted."""
    escalate: EscalationScope = attrs.field(
        default=EscalationScope.GROUP,
        validator=require(
            lambda to: to is not EscalationScope.PLUGIN,
            'must be "group" (the one around it) or "mesh"',
        ),
    )
    """Where its failure is escalated: to the group around it, or to the mesh, as it is in any case
    without a group around it."""
    depends_on: tuple[str, ...] = attrs.field(default=(), converter=to_strings)
    """Plugins and groups that have to be ready before any member is started."""
