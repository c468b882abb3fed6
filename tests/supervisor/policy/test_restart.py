"""Restart decisions: a table for every branch."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import attrs
import pytest

from meshtrio.config import PluginConfig, StartMethod
from meshtrio.config import RestartPolicy as Policy
from meshtrio.supervisor.policy.restart import (
    AwaitDemand,
    Exit,
    ExitCause,
    Finish,
    Restart,
    RestartHistory,
    decide_restart,
    make_exit,
)
from meshtrio.util.backoff import Backoff

NOW = 1000.0
CLEAN = Exit(status=0)
FAILED = Exit(status=1)
KILLED = Exit(signal=9)
NOT_READY = Exit(status=0, reason="was not ready within 10 s")
NOT_STARTED = Exit(reason="could not be started: No such file or directory")
BACKOFF = Backoff(initial=1, maximum=60, multiplier=2, jitter=0)


def config(restart: Policy, **settings: Any) -> PluginConfig:
    return PluginConfig(name="p", command=["true"], restart=restart, backoff=BACKOFF, **settings)


@pytest.mark.parametrize("ended", [FAILED, KILLED, NOT_READY, NOT_STARTED], ids=str)
@pytest.mark.parametrize("restart", [Policy.ALWAYS, Policy.ON_FAILURE])
def test_a_failure_is_followed_by_a_restart(restart: Policy, ended: Exit) -> None:
    decision = decide_restart(config(restart), RestartHistory(), ended, 1.0, NOW, Random(0))
    assert decision == Restart(1.0, RestartHistory(1, 1))


@pytest.mark.parametrize("ended", [FAILED, KILLED, NOT_READY, NOT_STARTED], ids=str)
def test_never_means_never(ended: Exit) -> None:
    assert decide_restart(
        config(Policy.NEVER), RestartHistory(), ended, 1.0, NOW, Random(0)
    ) == Finish(is_failure=True)


@pytest.mark.parametrize("restart", [Policy.ON_FAILURE, Policy.NEVER])
def test_a_clean_exit_on_demand_is_followed_by_the_next_demand_after_a_growing_delay(
    restart: Policy,
) -> None:
    on_demand = attrs.evolve(config(restart), start=StartMethod.ON_DEMAND, listen_fds=True)
    history, delays = RestartHistory(restarts=5), []
    for since_ready in (1.0, 1.0, None, 100.0):
        found = decide_restart(on_demand, history, CLEAN, since_ready, NOW, Random(0))
        assert isinstance(found, AwaitDemand)
        history = found.history
        delays.append(found.delay)
        assert history.restarts == 5
    assert delays == [1.0, 2.0, 4.0, 1.0]
    failed = decide_restart(on_demand, RestartHistory(), FAILED, 1.0, NOW, Random(0))
    assert isinstance(failed, Restart if restart is Policy.ON_FAILURE else Finish)


@pytest.mark.parametrize(
    ("restart", "decision"),
    [
        (Policy.ALWAYS, Restart(1.0, RestartHistory(1, 1))),
        (Policy.ON_FAILURE, Finish(is_failure=False)),
        (Policy.NEVER, Finish(is_failure=False)),
    ],
)
def test_a_clean_exit(restart: Policy, decision: object) -> None:
    assert decide_restart(config(restart), RestartHistory(), CLEAN, 1.0, NOW, Random(0)) == decision


@pytest.mark.parametrize(
    ("since_ready", "delays"),
    [
        ((1, 1, 1, 9.9, 10, 1), [1, 2, 4, 8, 1, 2]),
        # Those that never were ready, however long they were waited for.
        ((None, None, None, None), [1, 2, 4, 8]),
        ((None, 10, None, 9.9, None), [1, 1, 2, 4, 8]),
    ],
)
def test_delays_grow_with_failures_in_a_row_and_start_again_after_it_was_ready_for_long(
    since_ready: Sequence[float | None], delays: list[float]
) -> None:
    history, found = RestartHistory(), []
    for seconds in since_ready:
        decision = decide_restart(config(Policy.ALWAYS), history, FAILED, seconds, NOW, Random(0))
        assert isinstance(decision, Restart)
        history = decision.history
        found.append(decision.delay)
    assert found == delays
    assert history.restarts == len(delays)


@pytest.mark.parametrize(
    ("ended", "text"),
    [
        (CLEAN, "exited with status 0"),
        (KILLED, "was killed by SIGKILL"),
        (Exit(signal=63), "was killed by signal 63"),
        (NOT_READY, "was not ready within 10 s; it exited with status 0"),
        (NOT_STARTED, "could not be started: No such file or directory"),
    ],
)
def test_an_exit_in_words(ended: Exit, text: str) -> None:
    assert str(ended) == text


@pytest.mark.parametrize("restart", Policy)
@pytest.mark.parametrize("status", [0, 3])
def test_a_status_that_always_or_never_restarts_overrules_the_policy(
    restart: Policy, status: int
) -> None:
    ended = Exit(status=status)
    never = config(restart, never_restart_on=[status])
    assert decide_restart(never, RestartHistory(), ended, 1, NOW, Random(0)) == Finish(
        is_failure=status != 0
    )
    always = config(restart, always_restart_on=[status])
    assert isinstance(decide_restart(always, RestartHistory(), ended, 1, NOW, Random(0)), Restart)
    both = config(restart, never_restart_on=[status], always_restart_on=[status])
    assert isinstance(decide_restart(both, RestartHistory(), ended, 1, NOW, Random(0)), Finish)


def test_a_status_the_mesh_brought_about_is_not_the_plugins_word() -> None:
    never = config(Policy.ALWAYS, never_restart_on=[0])
    assert isinstance(
        decide_restart(never, RestartHistory(), NOT_READY, 1, NOW, Random(0)), Restart
    )


def test_too_many_restarts_within_the_period_and_it_gives_up() -> None:
    limited = config(Policy.ALWAYS, max_restarts=2, restart_period=10)
    history = RestartHistory()
    for now in (0.0, 5.0):
        decision = decide_restart(limited, history, FAILED, 1, now, Random(0))
        assert isinstance(decision, Restart)
        history = decision.history
    assert decide_restart(limited, history, FAILED, 1, 9.9, Random(0)) == Finish(True, 2)
    # The first is forgotten once the period has passed.
    assert isinstance(decide_restart(limited, history, FAILED, 1, 10.0, Random(0)), Restart)


def test_what_is_remembered_does_not_grow_without_end() -> None:
    unlimited = config(Policy.ALWAYS, restart_period=1e9)
    limited = config(Policy.ALWAYS, max_restarts=20, restart_period=10)
    for settings, remembered in ((unlimited, 0), (limited, 10)):
        history = RestartHistory()
        for now in range(1000):
            decision = decide_restart(settings, history, FAILED, 1, float(now), Random(0))
            assert isinstance(decision, Restart)
            history = decision.history
        assert len(history.recent_restarts) == remembered


def test_a_start_for_which_the_mesh_has_no_resources_is_not_counted() -> None:
    """A mesh without descriptors does not give up on its plugins, and starts them ever later."""
    lacking = Exit(reason="could not be started: Too many open files", is_resource_exhaustion=True)
    few = config(Policy.ALWAYS, max_restarts=1)
    history = RestartHistory(recent_restarts=(NOW - 1,))
    for delay in (1.0, 2.0, 4.0):
        decision = decide_restart(few, history, lacking, None, NOW, Random(0))
        assert isinstance(decision, Restart)
        assert decision.delay == delay
        history = decision.history
    assert decide_restart(few, history, FAILED, None, NOW, Random(0)) == Finish(True, 1)


@pytest.mark.parametrize(
    ("returncode", "failure", "is_unkillable", "text", "cause"),
    [
        (0, Exit(reason=""), False, "exited with status 0", ExitCause.EXITED),
        (-9, Exit(reason=""), False, "was killed by SIGKILL", ExitCause.KILLED),
        (
            -15,
            Exit(reason="was not ready", explicit_cause=ExitCause.NOT_READY),
            False,
            "was not ready; it was killed by SIGTERM",
            ExitCause.NOT_READY,
        ),
        (None, Exit(reason=""), True, "was to stop; it cannot be killed, left running", None),
        (
            None,
            Exit(reason="was not ready", explicit_cause=ExitCause.NOT_READY),
            True,
            "was not ready; it cannot be killed, left running",
            ExitCause.NOT_READY,
        ),
    ],
)
def test_exits_of_processes(
    returncode: int | None,
    failure: Exit,
    is_unkillable: bool,
    text: str,
    cause: ExitCause | None,
) -> None:
    found = make_exit(returncode, failure, is_unkillable=is_unkillable, stderr_tail=("x",))
    assert (str(found), found.is_unkillable) == (text, is_unkillable)
    assert cause is None or found.cause is cause
    assert found.stderr_tail == ("x",)


def test_an_exit_of_unknown_status() -> None:
    found = make_exit(None, Exit(), is_unkillable=False, stderr_tail=())
    assert (found.status, found.signal) == (None, None)
    assert found.reason.startswith("ended, but its exit status is not known")
    found = make_exit(None, Exit(reason="was not ready"), is_unkillable=False, stderr_tail=())
    assert found.reason.startswith("was not ready; it ended, but its exit status is not known")


def test_only_processes_that_are_stuck_get_no_time_to_drain() -> None:
    stuck = {cause for cause in ExitCause if Exit(reason="x", explicit_cause=cause).is_stuck}
    assert stuck == {ExitCause.UNHEALTHY, ExitCause.MEMORY_LIMIT}
    assert not Exit(reason="x").is_stuck
