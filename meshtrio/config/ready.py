"""When a plugin is ready, and how its liveness is checked: the values of `ready` and of
`liveness.check`."""

from __future__ import annotations

import attrs


@attrs.frozen
class GrpcCheck:
    """Its gRPC server reports SERVING."""


@attrs.frozen
class StartedCheck:
    """Its process was started."""


Check = GrpcCheck | StartedCheck
"""What is checked."""

_SIMPLE_CHECKS: dict[str, Check] = {"grpc": GrpcCheck(), "started": StartedCheck()}


def parse_check(text: str) -> Check:
    """Parse the value of `ready`. Raises ValueError."""
    if text in _SIMPLE_CHECKS:
        return _SIMPLE_CHECKS[text]
    raise ValueError(f"must be one of {', '.join(_SIMPLE_CHECKS)}, not {text!r}")
