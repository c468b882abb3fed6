"""Connections that poll before every wait, whether that pays or not."""

from __future__ import annotations

import pytest

from meshtrio.transport.busy_poll import BusyPoll

POLL_TIME = 0.05
"""So long that a process which has to wait for the processor meanwhile changes nothing."""


class FixedPoll(BusyPoll):
    """Polls in every wait, and records them."""

    def __init__(self, poll_time: float = POLL_TIME) -> None:
        super().__init__(poll_time)
        self.poll_time = poll_time
        self.recorded: list[tuple[float, float, float]] = []

    def record_wait(
        self,
        now: float,
        waited: float,
        polled: float = 0.0,
        displaced: float = 0.0,
        cpu: float = 0.0,
    ) -> None:
        self.recorded.append((waited, polled, displaced))


@pytest.fixture
def polling_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every connection that is made in the test poll in every wait."""
    monkeypatch.setattr("meshtrio.transport.transport.BusyPoll", FixedPoll)


@pytest.fixture(params=["sleeping", "polling"])
def sleeping_and_polling(request: pytest.FixtureRequest) -> None:
    """Run the test with connections that never poll in it, and with those that always do."""
    if request.param == "polling":
        request.getfixturevalue("polling_everywhere")
