"""The state machines of supervision: a process run's states and an instance's phases. Pure.

An instance of a plugin is more than a process: it has none while it waits to be started again, and
two while one replaces the other. So there are two machines, each an Enum and a table:

- A *run* is one process, from its start to its end. Its `InstanceState` says what the process is
  doing, and the run itself changes it.

      PENDING -> STARTING -> READY <-> UNREADY -> STOPPING -> ENDED

- An *instance* has an `InstancePhase`, which says what its supervisor does with it. It changes by
  an `InstanceEvent`: what an operator requests, what the supervisor carries out, or what became of
  a run.

      WAITING, BACKOFF --LAUNCH--> RUNNING --RETRY--> BACKOFF
                                   RUNNING --COMPLETE, FAIL--> EXITED, FAILED
      RUNNING --REPLACE--> REPLACE_QUEUED --LAUNCH--> REPLACING --PROMOTE, ABANDON--> RUNNING
      any of these with a process --STOP--> STOP_QUEUED --TERMINATE--> STOPPING --> STOPPED
                                  --RESTART--> RESTART_QUEUED --> RESTARTING --> WAITING
      IDLE --DEMAND--> WAITING, RUNNING --IDLE--> IDLING --> IDLE, if it is started on demand

A pair that the tables do not allow is an error of the supervisor and raises ValueError.
"""

from __future__ import annotations

from enum import Enum


class InstanceState(Enum):
    """The state of an instance as it is shown; a run has one of the first six.

    The values are used in the CLI's JSON, metric labels and spans.
    """

    PENDING = "pending"
    """The instance was not started yet: it waits for dependencies, or for its turn."""
    STARTING = "starting"
    """The process has not been ready yet."""
    READY = "ready"
    """The process serves and is in the registry."""
    UNREADY = "unready"
    """The process was ready and reports NOT_SERVING."""
    STOPPING = "stopping"
    """The process is being ended."""
    ENDED = "ended"
    """The process has ended, and the supervisor has yet to decide what follows."""
    IDLE = "idle"
    """The instance is started at the next connection or call."""
    BACKOFF = "backoff"
    """The instance is started again after a delay."""
    STOPPED = "stopped"
    """The instance was stopped on request."""
    EXITED = "exited"
    """The process ended successfully, and the restart policy leaves the instance down."""
    FAILED = "failed"
    """The process failed, and the restart policy leaves the instance down."""
    ATTACHED = "attached"
    """A process that the mesh has not started, of `meshtrio attach`, is in the instance's place."""


class InstancePhase(Enum):
    """What the supervisor is doing with an instance."""

    WAITING = "waiting"
    """The instance is to run, and waits for its dependencies and a start slot."""
    IDLE = "idle"
    """The instance has no process, and waits for a connection or call."""
    IDLING = "idling"
    """All runs were asked to stop, since there were no calls; then the instance is idle."""
    BACKOFF = "backoff"
    """The instance is to run, and waits for its next start to be due."""
    RUNNING = "running"
    """The instance has an active run."""
    REPLACE_QUEUED = "replace queued"
    """The active run is to be replaced as soon as it is ready."""
    REPLACING = "replacing"
    """A replacement was launched; it becomes the active run once it is ready."""
    STOP_QUEUED = "stop queued"
    """The instance is to stop once its dependents have stopped."""
    STOPPING = "stopping"
    """All runs were asked to stop."""
    RESTART_QUEUED = "restart queued"
    """The instance is to stop once its dependents have stopped, and then to start again."""
    RESTARTING = "restarting"
    """All runs were asked to stop, and the instance starts again after the last of them."""
    STOPPED = "stopped"
    """The instance was stopped on request."""
    EXITED = "exited"
    """The process ended successfully and is not restarted."""
    FAILED = "failed"
    """The process failed and is not restarted."""

    @property
    def is_waiting(self) -> bool:
        """Whether the instance is to be launched."""
        return self in (InstancePhase.WAITING, InstancePhase.BACKOFF)

    @property
    def is_stop_queued(self) -> bool:
        """Whether the instance is to be stopped and its runs were not asked to yet."""
        return self in (InstancePhase.STOP_QUEUED, InstancePhase.RESTART_QUEUED)

    @property
    def is_restarting(self) -> bool:
        """Whether the instance is to be stopped and then started again."""
        return self in (InstancePhase.RESTART_QUEUED, InstancePhase.RESTARTING)

    @property
    def is_leaving(self) -> bool:
        """Whether the instance is to be stopped, and still has a run."""
        return self.is_stop_queued or self in (
            InstancePhase.STOPPING,
            InstancePhase.RESTARTING,
            InstancePhase.IDLING,
        )

    @property
    def is_idle(self) -> bool:
        """Whether the instance waits for demand, or will once its runs have ended."""
        return self in (InstancePhase.IDLE, InstancePhase.IDLING)

    @property
    def is_final(self) -> bool:
        """Whether the instance stays down until it is started on request."""
        return self in (InstancePhase.STOPPED, InstancePhase.EXITED, InstancePhase.FAILED)


class InstanceEvent(Enum):
    """What changes the phase of an instance."""

    START = "start"
    """An operator wants the instance to run."""
    STOP = "stop"
    """An operator, or the shutdown of the mesh, wants the instance down."""
    RESTART = "restart"
    """The instance's group restarts it with other members."""
    REPLACE = "replace"
    """The active run is to be replaced: an operator requests it, or the run is too old or large."""
    DEMAND = "demand"
    """A connection or a call needs the instance; ignored unless it is idle."""
    IDLE = "idle"
    """The supervisor has asked the run to stop, since it has no calls."""
    AWAIT_DEMAND = "await demand"
    """The active run has ended successfully by itself, and the next demand starts another."""
    LAUNCH = "launch"
    """The supervisor has launched a run, or a replacement."""
    TERMINATE = "terminate"
    """The supervisor has asked all runs to stop."""
    PROMOTE = "promote"
    """The replacement has become the active run."""
    ABANDON = "abandon"
    """The replacement has ended; the active run stays."""
    RETRY = "retry"
    """The active run has ended, and the restart policy starts another."""
    COMPLETE = "complete"
    """The active run has ended successfully, and the restart policy starts no other."""
    FAIL = "fail"
    """The active run has failed, and the restart policy starts no other."""
    ALL_EXITED = "all exited"
    """The last run of an instance that is to be stopped has ended."""


_S = InstanceState
_RUN_STATES = {
    _S.PENDING: {_S.STARTING, _S.ENDED},
    _S.STARTING: {_S.READY, _S.STOPPING, _S.ENDED},
    _S.READY: {_S.UNREADY, _S.STOPPING, _S.ENDED},
    _S.UNREADY: {_S.READY, _S.STOPPING, _S.ENDED},
    _S.STOPPING: {_S.ENDED},
}

_P, _E = InstancePhase, InstanceEvent
_REQUESTS = (_E.START, _E.STOP, _E.RESTART, _E.DEMAND)
"""Accepted in each phase; a request that a phase does not list leaves it as it is."""
_LEAVE = {_E.STOP: _P.STOP_QUEUED, _E.RESTART: _P.RESTART_QUEUED}
_END = {
    _E.RETRY: _P.BACKOFF,
    _E.COMPLETE: _P.EXITED,
    _E.FAIL: _P.FAILED,
    _E.AWAIT_DEMAND: _P.IDLE,
}
_PHASES: dict[InstancePhase, dict[InstanceEvent, InstancePhase]] = {
    _P.WAITING: {_E.STOP: _P.STOPPED, _E.LAUNCH: _P.RUNNING},
    _P.BACKOFF: {_E.STOP: _P.STOPPED, _E.LAUNCH: _P.RUNNING},
    _P.IDLE: {_E.START: _P.WAITING, _E.STOP: _P.STOPPED, _E.DEMAND: _P.WAITING},
    _P.RUNNING: {**_LEAVE, **_END, _E.REPLACE: _P.REPLACE_QUEUED, _E.IDLE: _P.IDLING},
    _P.REPLACE_QUEUED: {**_LEAVE, **_END, _E.REPLACE: _P.REPLACE_QUEUED, _E.LAUNCH: _P.REPLACING},
    _P.REPLACING: {
        **_LEAVE,
        _E.REPLACE: _P.REPLACING,
        _E.PROMOTE: _P.RUNNING,
        _E.ABANDON: _P.RUNNING,
    },
    # A request to stop holds until the instance is started on request: a group's restart is not.
    _P.STOP_QUEUED: {
        _E.START: _P.RESTART_QUEUED,
        _E.TERMINATE: _P.STOPPING,
        _E.ALL_EXITED: _P.STOPPED,
    },
    _P.IDLING: {
        _E.START: _P.RESTARTING,
        _E.STOP: _P.STOPPING,
        _E.DEMAND: _P.RESTARTING,
        _E.ALL_EXITED: _P.IDLE,
    },
    _P.STOPPING: {_E.START: _P.RESTARTING, _E.ALL_EXITED: _P.STOPPED},
    _P.RESTART_QUEUED: {
        _E.STOP: _P.STOP_QUEUED,
        _E.TERMINATE: _P.RESTARTING,
        _E.ALL_EXITED: _P.WAITING,
    },
    _P.RESTARTING: {_E.STOP: _P.STOPPING, _E.ALL_EXITED: _P.WAITING},
    _P.STOPPED: {_E.START: _P.WAITING},
    _P.EXITED: {_E.START: _P.WAITING},
    _P.FAILED: {_E.START: _P.WAITING, _E.RESTART: _P.BACKOFF},
}


def next_run_state(state: InstanceState, new_state: InstanceState) -> InstanceState:
    """Check a run's change of state and return the new one. Raises ValueError if not listed."""
    if new_state not in _RUN_STATES.get(state, ()):
        raise ValueError(f"a process cannot go from {state.value} to {new_state.value}")
    return new_state


def next_phase(phase: InstancePhase, event: InstanceEvent) -> InstancePhase:
    """Return the phase that an event leads to. Raises ValueError if the pair is not listed."""
    following = _PHASES[phase].get(event, phase if event in _REQUESTS else None)
    if following is None:
        raise ValueError(f"an instance that is {phase.value} cannot {event.value}")
    return following
