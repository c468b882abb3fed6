"""Why an endpoint is gone."""

from __future__ import annotations

import attrs


@attrs.frozen
class ExitInfo:
    """Describes the end of an endpoint, and of the process behind it if the mesh ran one."""

    endpoint_id: str
    """The `Endpoint.id` of the endpoint that is gone."""
    reason: str
    """A sentence for people: why the endpoint is gone."""
    exit_status: int | None = None
    """The exit status of the process, None if it did not exit by itself or is unknown."""
    signal: int | None = None
    """The number of the signal that killed the process, None if none did."""
    stderr_tail: tuple[str, ...] = ()
    """The last lines that the process wrote to stderr, oldest first."""
    launch_id: str = ""
    """The launch id of the process (its `MESH_LAUNCH_ID`), "" if no mesh ran it."""

    @property
    def is_process_exit(self) -> bool:
        """Whether the process ended, rather than only its registration."""
        return self.exit_status is not None or self.signal is not None
