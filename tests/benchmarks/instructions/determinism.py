"""Makes the counted processes independent of clocks.

Valgrind slows processes down by a factor of about 50, and other load by an unknown one. So what
ends by the clock, such as time slices and busy polling, would not be what it is otherwise, nor the
same in each run.
"""

from __future__ import annotations

import itertools
import math
import time
from contextlib import suppress

_TICK = 0.000001
"""Seconds from one reading of a clock to the next: so few that time slices are not used up."""


def replace_clocks() -> None:
    """Let clocks that measure work advance by the same for each reading.

    Call it after trio was imported, whose clock stays what it is, and before meshtrio is.
    """
    time.perf_counter = itertools.count(1.0, _TICK).__next__
    time.thread_time = itertools.count(1.0, _TICK).__next__


def remove_time_limits() -> None:
    """Remove what else depends on the clock, as far as the measured revision has it."""
    with suppress(ImportError):
        from meshtrio.rpc import write_buffer

        # A write is delayed for the writes of other tasks, for half a millisecond at most.
        write_buffer._MAX_WRITE_DELAY = math.inf
    with suppress(ImportError, AttributeError):  # of revisions that ignore MESHTRIO_BUSY_POLL
        from meshtrio.transport import transport

        transport.BusyPoll.is_worthwhile = False
