"""Decisions of supervision, as pure functions: no trio, clocks, processes or global random."""
