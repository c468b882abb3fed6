"""Restart decisions: a table for every branch."""

from __future__ import annotations

from random import Random

import pytest

from meshtrio.backoff import Backoff
from meshtrio.config import PluginConfig
from meshtrio.config import RestartPolicy as Policy
from meshtrio.supervise.policy import Exit, Finish, History, Restart, decide

CLEAN = Exit(status=0)
FAILED = Exit(status=1)
KILLED = Exit(signal=9)
NOT_READY = Exit(status=0, reason="was not ready within 10 s")
NOT_STARTED = Exit(reason="could not be started: No such file or directory")
BACKOFF = Backoff(initial=1, maximum=60, multiplier=2, jitter=0, reset_after=10)


def config(restart: Policy) -> PluginConfig:
    return PluginConfig(name="p", command=["true"], restart=restart, backoff=BACKOFF)


@pytest.mark.parametrize("ended", [FAILED, KILLED, NOT_READY, NOT_STARTED], ids=str)
@pytest.mark.parametrize("restart", [Policy.ALWAYS, Policy.ON_FAILURE])
def test_a_failure_is_followed_by_a_restart(restart: Policy, ended: Exit) -> None:
    decision = decide(config(restart), History(), ended, 1.0, Random(0))
    assert decision == Restart(1.0, History(restarts=1, failures=1))


@pytest.mark.parametrize("ended", [FAILED, KILLED, NOT_READY, NOT_STARTED], ids=str)
def test_never_means_never(ended: Exit) -> None:
    assert decide(config(Policy.NEVER), History(), ended, 1.0, Random(0)) == Finish(failed=True)


@pytest.mark.parametrize(
    ("restart", "decision"),
    [
        (Policy.ALWAYS, Restart(1.0, History(restarts=1, failures=1))),
        (Policy.ON_FAILURE, Finish(failed=False)),
        (Policy.NEVER, Finish(failed=False)),
    ],
)
def test_a_clean_exit(restart: Policy, decision: object) -> None:
    assert decide(config(restart), History(), CLEAN, 1.0, Random(0)) == decision


def test_delays_grow_with_failures_in_a_row_and_start_again_after_a_long_life() -> None:
    history, delays = History(), []
    for uptime in (1, 1, 1, 9.9, 10, 1):
        decision = decide(config(Policy.ALWAYS), history, FAILED, uptime, Random(0))
        assert isinstance(decision, Restart)
        history = decision.history
        delays.append(decision.delay)
    assert delays == [1, 2, 4, 8, 1, 2]
    assert history.restarts == 6


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
