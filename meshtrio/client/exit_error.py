"""Turns a lost connection into an error that reports how the plugin's process ended."""

from __future__ import annotations

import trio

from meshtrio.client.call_destination import PickResult
from meshtrio.errors import ConnectionLostError, PluginDiedError
from meshtrio.util.text import escape_unprintable

EXIT_INFO_TIMEOUT = 0.08
"""Seconds that a failed call waits for exit info, of the 0.1 s in which it has to fail."""
_GRACEFUL_EXIT_INFO_TIMEOUT = 2.0
"""Seconds that it waits if the server had sent GOAWAY with NO_ERROR: an orderly exit takes longer
than a kill."""


async def describe_connection_loss(
    name: str, pick_result: PickResult, failure: ConnectionLostError, exit_info_timeout: float
) -> ConnectionLostError:
    """Wait for the exit info of an endpoint, which comes from the mesh and not from the socket.

    Args:
        name: Name of the service.
        pick_result: The connection that broke.
        failure: The error of the call.
        exit_info_timeout: Seconds to wait at most; 0 if there will be no exit info.

    Returns:
        A PluginDiedError if the process has ended, else a ConnectionLostError.
    """
    endpoint = pick_result.channel_endpoint
    assert endpoint is not None
    if exit_info_timeout and pick_result.connection.is_peer_shutting_down:
        exit_info_timeout = _GRACEFUL_EXIT_INFO_TIMEOUT
    with trio.move_on_after(exit_info_timeout):
        await endpoint.process_exited.wait()
    exit_info = endpoint.exit_info
    if exit_info is None or not exit_info.is_process_exit:
        return ConnectionLostError(f"{name}: {failure.status.status_message}")
    return PluginDiedError(
        f"{name}: {escape_unprintable(exit_info.reason)}",
        exit_status=exit_info.exit_status,
        signal=exit_info.signal,
        stderr_tail=exit_info.stderr_tail,
        launch_id=exit_info.launch_id,
    )
