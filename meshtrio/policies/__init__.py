"""What a client decides: pure functions and state, that are given `now` (seconds) and `rng`."""
