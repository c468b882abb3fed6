"""How the processes of a plugin are started, replaced and restarted, as its config says."""

from __future__ import annotations

from enum import Enum


class RestartPolicy(Enum):
    """Whether a plugin is restarted when its process exits by itself."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


class StartMethod(Enum):
    """How the processes of a plugin are started."""

    EXEC = "exec"
    """The command is executed."""
    FORK = "fork"
    """A template process, which has imported what the program imports, forks."""
    ON_DEMAND = "on-demand"
    """The command is executed at the first connection or call."""
    FORK_ON_DEMAND = "fork-on-demand"
    """As `FORK`, at the first connection or call."""

    @property
    def forks(self) -> bool:
        """Whether a template process forks."""
        return self in (StartMethod.FORK, StartMethod.FORK_ON_DEMAND)

    @property
    def is_on_demand(self) -> bool:
        """Whether a process is started only when it is needed."""
        return self in (StartMethod.ON_DEMAND, StartMethod.FORK_ON_DEMAND)


class ReplacementOrder(Enum):
    """How the process of an instance is replaced, by `meshtrio restart`, a reload or `max_age`."""

    START_FIRST = "start-first"
    """The successor is started, and the process stopped once that is ready."""
    STOP_FIRST = "stop-first"
    """The process is stopped, and the successor started once it has ended."""


class EscalationScope(Enum):
    """Where the failure of a plugin that exceeded its restarts is handled."""

    PLUGIN = "plugin"
    """The plugin stays down; nothing else is affected."""
    GROUP = "group"
    """Its group is restarted by its strategy, and fails in turn if that happens too often."""
    MESH = "mesh"
    """The mesh stops with an error."""
