"""One random generator for the process: to make one costs 20 µs and a system call."""

from __future__ import annotations

import os
from random import Random

RNG = Random()
"""Randomizes delays and choices. May be used by several threads."""

# Processes that were forked together must not choose the same delays.
os.register_at_fork(after_in_child=RNG.seed)
