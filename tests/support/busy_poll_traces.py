"""Made-up waits for the policy of busy polling: what it does, and what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import attrs

from meshtrio.transport.busy_poll import BusyPoll, Phase

US = 1e-6
WAKE_UP = 60 * US
"""Time from data to the process that slept, on a virtual machine."""
WORK = 60 * US
"""Time that a process works between two waits."""
_SLEEP_CPU = 15 * US
"""CPU time of going to sleep and being woken."""
_DETECTION = 5 * US
"""Time from data to the process that polls."""


@attrs.define
class TracedProcess:
    """One side of a connection: a policy, its clock, and the CPU time that it uses."""

    policy: BusyPoll
    rng: Random = attrs.Factory(lambda: Random(1))
    noise: float = 0.3
    """Standard deviation of the logarithm of wake-ups and work."""
    wake_up: float = WAKE_UP
    displaced_share: float = 0.0
    """Share of the time of polls that other processes have the core."""
    now: float = 0.0
    cpu: float = 0.0
    polled_waits: int = 0
    phases: list[Phase] = attrs.Factory(list)

    def _vary(self, seconds: float) -> float:
        return seconds * self.rng.lognormvariate(0, self.noise)

    def wait_until(self, arrival: float) -> None:
        """Wait for data that arrives then, in the way that the policy chooses, and work on it."""
        began, poll_time = self.now, self.policy.poll_time
        found = bool(poll_time) and arrival <= began + poll_time
        if found:
            self.now = max(arrival, began) + _DETECTION
            polled = self.now - began
        else:
            self.now = max(arrival, began + poll_time) + self._vary(self.wake_up)
            polled = poll_time
            self.cpu += _SLEEP_CPU
        self.polled_waits += poll_time > 0
        displaced = self.displaced_share * polled
        self.cpu += polled - displaced
        self.policy.record_wait(self.now, self.now - began, polled, displaced, self.cpu)
        self.phases.append(self.policy.phase)
        work = self._vary(WORK)
        self.cpu += work
        self.now += work


def call_in_turn(
    client: TracedProcess, server: TracedProcess, pauses: Iterator[float]
) -> tuple[float, float]:
    """Make a call after each pause; return seconds and CPU seconds of both sides, per call."""
    calls, requested = 0, client.now
    for pause in pauses:
        server.wait_until(requested)
        client.wait_until(server.now)
        requested = client.now + pause
        calls += 1
    return client.now / calls, (client.cpu + server.cpu) / calls


def call_at_pace(client: TracedProcess, server: TracedProcess, rate: float, calls: int) -> float:
    """Make calls at a fixed rate, per second; return the CPU seconds of both sides, per call."""
    for number in range(calls):
        server.wait_until(max(number / rate, client.now))
        client.wait_until(server.now)
    return (client.cpu + server.cpu) / calls
