"""The maximum age of a server's connection (gRFC A9).

Clients that resolve a name only when they connect, as those of other gRPC implementations do with
DNS, find new servers if their connections end from time to time. The connection is drained at its
maximum age, so that no call is lost; calls that are still running after the grace period are ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from meshtrio.rpc.timeouts import Timeouts

AGE_JITTER = 0.1
"""Fraction by which the maximum age of a connection varies either way, as gRFC A9 has it, so that
connections that were opened together do not end together."""


class ConnectionAge:
    """Takes the steps that are due because of the age of one connection.

    Args:
        timeouts: Those of the connection.
        opened_at: The time of its start.
        rng: Varies the maximum age.
        drain: Makes clients use another connection for further calls.
        end_calls: Ends the calls that are running; called when the grace period is over.
        close: Closes the connection; called at the next check, if calls have not ended then, since
            their client does not read or their handlers do not stop.
    """

    def __init__(
        self,
        timeouts: Timeouts,
        opened_at: float,
        rng: Random,
        *,
        drain: Callable[[], object],
        end_calls: Callable[[], object],
        close: Callable[[], object],
    ) -> None:
        varied = timeouts.max_connection_age * rng.uniform(1 - AGE_JITTER, 1 + AGE_JITTER)
        self._due_at = opened_at + varied
        """When the next step is due."""
        grace = timeouts.max_connection_age_grace
        self._steps = [(close, math.inf), (end_calls, 0.0), (drain, grace)]
        """The steps, last one first, each with the time from it to the next one."""

    def check(self, now: float) -> None:
        """Take the next step if it is due; called once a second."""
        if self._steps and now >= self._due_at:
            step, time_to_next = self._steps.pop()
            self._due_at = now + time_to_next
            step()
