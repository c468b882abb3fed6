from __future__ import annotations

_COST_WITH_DEADLINE = 0.1


def reset_cost(age: float, *, grace: float, has_deadline: bool, response_started: bool) -> float:
    """Give the tokens that a client's reset costs it.

    Args:
        lived: Seconds from the request to the reset.
        grace: Seconds after which a reset is free.
        has_deadline: The call has a deadline, which may have passed.
        answered: The response has begun.
    """
    if response_started or age >= grace:
        return 0.0
    return _COST_WITH_DEADLINE if has_deadline else 1.0
