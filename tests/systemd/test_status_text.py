"""The line that `systemctl status` shows."""

from __future__ import annotations

import attrs
import pytest

from meshtrio.supervisor.policy.state import InstanceState as S
from meshtrio.systemd.status_text import describe_mesh, shorten_line


@attrs.define
class Entry:
    plugin: str
    state: S = S.READY
    exit_reason: str = ""
    number: int = 0

    @property
    def name(self) -> str:
        return f"{self.plugin}/{self.number}"

    @property
    def is_running(self) -> bool:
        return self.state in (S.STARTING, S.READY, S.UNREADY, S.STOPPING)


STATUS_3 = "exited with status 3"


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([], "0 of 0 plugins ready"),
        ([Entry("a")], "1 of 1 plugin ready"),
        ([Entry("a"), Entry("a", number=1), Entry("b")], "2 of 2 plugins ready"),
        (
            [Entry("a"), Entry("db", S.FAILED, STATUS_3)],
            "1 of 2 plugins ready; db failed: exited with status 3",
        ),
        (
            [Entry("a"), Entry("a", S.BACKOFF, STATUS_3, number=1)],
            "0 of 1 plugin ready; a/1 is started again: exited with status 3",
        ),
        (
            [Entry("a", S.STARTING), Entry("b", S.PENDING), Entry("c", S.FAILED, "exited with 3")],
            "0 of 3 plugins ready; c failed: exited with 3; a is starting; b waits to be started",
        ),
        (
            [Entry(name, S.STARTING) for name in "abcde"],
            "0 of 5 plugins ready; a is starting; b is starting; c is starting; and 2 more",
        ),
        ([Entry("a", S.IDLE), Entry("b")], "2 of 2 plugins ready"),
        ([Entry("a", S.STOPPED), Entry("b")], "1 of 2 plugins ready; a is stopped"),
    ],
)
def test_while_it_runs(entries: list[Entry], text: str) -> None:
    assert describe_mesh(entries, is_stopping=False) == text


@pytest.mark.parametrize(
    ("entries", "text"),
    [
        ([], "stopping: all plugins have stopped"),
        ([Entry("a", S.STOPPED)], "stopping: all plugins have stopped"),
        (
            [Entry("a", S.STOPPING), Entry("b", S.STOPPED)],
            "stopping: 1 of 2 plugins still running: a",
        ),
        (
            [Entry(name) for name in "abcdefg"],
            "stopping: 7 of 7 plugins still running: a, b, c, d, e, and 2 more",
        ),
    ],
)
def test_while_it_stops(entries: list[Entry], text: str) -> None:
    assert describe_mesh(entries, is_stopping=True) == text


def test_every_state_has_words() -> None:
    for state in S:
        assert "ready" in describe_mesh([Entry("a", state)], is_stopping=False)


def test_text_of_others_is_one_short_line_without_controls() -> None:
    reason = "\x1b[31m\ud800\u202e" + "x" * 1000 + "\nREADY=1"
    text = describe_mesh([Entry("a", S.FAILED, reason)], is_stopping=False)
    assert text.isprintable()
    assert "READY" not in text
    assert len(text) < 250
    assert shorten_line("one\ntwo") == "one"
