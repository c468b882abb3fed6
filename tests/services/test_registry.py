"""The registry over gRPC: what another process learns is what the mesh knows."""

from __future__ import annotations

import pytest

from meshtrio.client.endpoint import Departure, Endpoint, ServiceState
from meshtrio.services.registry_messages import from_message, to_message

STATES = [
    ServiceState(),
    ServiceState((Endpoint(id="a", address="unix:/a", instance=3, pid=4),)),
    ServiceState((), (Departure("a", "exited", exit_status=0, stderr_tail=("x", "y")),)),
    ServiceState((), (Departure("a", "killed", signal=9), Departure("b", "stopped"))),
]


@pytest.mark.parametrize("state", STATES)
def test_a_state_survives_the_wire(state: ServiceState) -> None:
    data = to_message("s", state).SerializeToString()
    message = type(to_message("s", state)).FromString(data)
    assert from_message(message) == state


def test_an_exit_status_of_zero_is_not_no_exit_status() -> None:
    departures = from_message(to_message("s", STATES[2])).departures
    assert departures[0].died
    assert not from_message(to_message("s", STATES[3])).departures[1].died
