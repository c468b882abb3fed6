"""The registry over gRPC: what another process learns is what the mesh knows."""

from __future__ import annotations

import pytest

from meshtrio.discovery.endpoint import Endpoint, ExitInfo, ServiceState
from meshtrio.discovery.registry_messages import state_from_message, state_to_message

STATES = [
    ServiceState(),
    ServiceState((Endpoint(id="a", address="unix:/a", instance=3, pid=4),)),
    ServiceState((), (ExitInfo("a", "exited", exit_status=0, stderr_tail=("x", "y")),)),
    ServiceState((), (ExitInfo("a", "killed", signal=9), ExitInfo("b", "stopped"))),
]


@pytest.mark.parametrize("state", STATES)
def test_a_state_survives_the_wire(state: ServiceState) -> None:
    data = state_to_message("s", state).SerializeToString()
    message = type(state_to_message("s", state)).FromString(data)
    assert state_from_message(message) == state


def test_an_exit_status_of_zero_is_not_no_exit_status() -> None:
    departures = state_from_message(state_to_message("s", STATES[2])).exit_infos
    assert departures[0].is_process_exit
    assert not state_from_message(state_to_message("s", STATES[3])).exit_infos[1].is_process_exit
