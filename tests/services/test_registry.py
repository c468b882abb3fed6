"""The registry over gRPC: what another process learns is what the mesh knows."""

from __future__ import annotations

import os
from contextlib import ExitStack

import purerpc
import pytest

from meshtrio.config import MeshConfig, MeshLimits
from meshtrio.discovery.endpoint import Endpoint, ExitInfo, ServiceState
from meshtrio.discovery.registry import Registry
from meshtrio.discovery.registry_messages import state_from_message, state_to_message
from meshtrio.services.registry import Registrations
from meshtrio.transport.peer import Peer

STATES = [
    ServiceState(),
    ServiceState((Endpoint(id="a", address="unix:/a", instance=3, pid=4),)),
    ServiceState((), (ExitInfo("a", "exited", exit_status=0, stderr_tail=("x", "y")),)),
    ServiceState((), (ExitInfo("a", "killed", signal=9), ExitInfo("b", "stopped"))),
]
OTHER, OWN = Peer(uid=12345), Peer(uid=os.geteuid())


@pytest.mark.parametrize("state", STATES)
def test_a_state_survives_the_wire(state: ServiceState) -> None:
    data = state_to_message("s", state).SerializeToString()
    message = type(state_to_message("s", state)).FromString(data)
    assert state_from_message(message) == state


def test_an_exit_status_of_zero_is_not_no_exit_status() -> None:
    departures = state_from_message(state_to_message("s", STATES[2])).exit_infos
    assert departures[0].is_process_exit
    assert not state_from_message(state_to_message("s", STATES[3])).exit_infos[1].is_process_exit


# -- what counts towards the limits of registrations -------------------------------------------


class Holder:
    """Registrations of a mesh with these limits, each held until it is let go."""

    def __init__(self, **limits: int) -> None:
        config = MeshConfig(limits=MeshLimits(**limits))
        self._registrations = Registrations(Registry(), lambda: config)
        self._held: list[ExitStack] = []

    def hold(
        self, path: str, peer: Peer = OTHER, *, service: str = "s", size: int = 2
    ) -> ExitStack:
        """Register an endpoint whose name and id have `size` bytes, until the result is closed."""
        endpoint = Endpoint("x" * (size - len(service)), f"unix:/{path}")
        stack = ExitStack()
        stack.enter_context(self._registrations.hold(service, endpoint, peer))
        self._held.append(stack)
        return stack

    def assert_refused(self, reason: str, path: str, peer: Peer = OTHER, *, size: int = 2) -> None:
        with pytest.raises(purerpc.ResourceExhaustedError, match=reason):
            self.hold(path, peer, size=size)


async def test_a_registration_that_replaces_one_counts_once() -> None:
    holder, reason = Holder(max_registrations_per_user=3), "uid 12345 has 3 registrations"
    replaced = [holder.hold("a"), holder.hold("a")]
    latest = holder.hold("a")
    holder.hold("b")
    holder.hold("c")
    for each in replaced:
        holder.assert_refused(reason, "d")
        each.close()
    holder.assert_refused(reason, "d")
    latest.close()
    holder.hold("d")
    holder.assert_refused(reason, "a")


async def test_a_registration_that_another_user_replaces_counts_for_that_user() -> None:
    holder, reason = Holder(max_registrations_per_user=2), "uid 12345 has 2 registrations"
    replaced, latest = holder.hold("a"), holder.hold("a", OWN)
    holder.hold("b", OWN)
    holder.assert_refused(f"uid {os.geteuid()} has 2 registrations", "c", OWN)
    holder.hold("d")
    last = holder.hold("e")
    holder.assert_refused(f"uid {os.geteuid()} has 2 registrations", "d", OWN)
    for each in (replaced, latest):
        holder.assert_refused(reason, "f")
        each.close()
    holder.assert_refused(reason, "f")
    holder.hold("c", OWN)
    last.close()
    holder.hold("f")


async def test_the_bytes_of_a_registration_count_until_it_is_replaced_or_ends() -> None:
    holder, reason = Holder(max_registrations_per_user=3), "has registrations of 768 bytes"
    replaced, latest = holder.hold("a", size=700), holder.hold("a", size=500)
    replaced.close()
    holder.assert_refused(reason, "b", size=269)
    holder.hold("b", size=268).close()
    holder.hold("a", OWN, size=600)
    latest.close()
    holder.assert_refused(reason, "c", OWN, size=169)
    last = holder.hold("c", size=768)
    holder.assert_refused(reason, "c", OWN, size=169)
    holder.assert_refused(reason, "d")
    last.close()
    holder.hold("d", size=768)


async def test_the_endpoints_of_a_service_count_until_they_end() -> None:
    holder, reason = Holder(max_endpoints_per_service=2), "s has 2 registered endpoints"
    replaced = [holder.hold("a"), holder.hold("a")]
    latest = holder.hold("a", OWN)
    holder.hold("b")
    for each in replaced:
        holder.assert_refused(reason, "c")
        each.close()
    holder.assert_refused(reason, "c", OWN)
    holder.hold("c", service="t")
    latest.close()
    holder.hold("c")
    holder.assert_refused(reason, "d")
