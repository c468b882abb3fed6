"""One wait for data on a connection, as its busy polling policy has to know it."""

from __future__ import annotations

from time import perf_counter, thread_time

from meshtrio.transport.busy_poll import BusyPoll, Phase


class Wait:
    """A wait for data, and the polls in it, which several tasks may make in turn."""

    __slots__ = (
        "_began",
        "_displaced",
        "_poll_began",
        "_poll_began_cpu",
        "_poll_time",
        "_polled",
        "is_over",
    )

    def __init__(self) -> None:
        """Begin a wait."""
        self._began = perf_counter()
        self._polled = self._displaced = 0.0
        self._poll_time = self._poll_began = self._poll_began_cpu = 0.0
        self.is_over = False
        """Whether data has come."""

    def start_poll(self, poll_time: float) -> None:
        """Begin a poll; all polls of the wait should take `poll_time` seconds at most."""
        self._poll_time = poll_time
        self._poll_began, self._poll_began_cpu = perf_counter(), thread_time()

    @property
    def is_poll_over(self) -> bool:
        """Whether the polls of this wait have taken their time."""
        return self._polled + perf_counter() - self._poll_began >= self._poll_time

    def end_poll(self) -> None:
        """End a poll: it has found data, has taken its time or is left to another task."""
        polled = perf_counter() - self._poll_began
        self._polled += polled
        if self._polled > self._poll_time:
            # Nothing was found, or too late: did this process have a core?
            self._displaced += polled - (thread_time() - self._poll_began_cpu)

    def record(self, policy: BusyPoll) -> None:
        """Record the wait, which data has ended; does nothing if that was done."""
        if self.is_over:
            return
        self.is_over, now = True, perf_counter()
        cpu = thread_time() if policy.phase is Phase.TRIAL else 0.0
        policy.record_wait(now, now - self._began, self._polled, self._displaced, cpu)
