"""What `meshtrio services` shows of how the mesh's own channels balance calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import purerpc

from meshtrio.cli import formatting
from meshtrio.cli.json_output import to_plain
from meshtrio.client.channel import Channel
from meshtrio.client.multicallable import DynamicStub
from meshtrio.messages import control, registry

_CONTROL = control.DESCRIPTOR.services_by_name["Control"]
_NO_ANSWER = (
    purerpc.PermissionDeniedError,
    purerpc.UnimplementedError,
    purerpc.NotFoundError,  # A service has gone meanwhile.
    purerpc.ResourceExhaustedError,  # The reply is too large, for thousands of services.
)
Balancing = Mapping[str, Sequence[control.ServiceBalancing]]
"""The channels to each service."""


async def read_balancing(channel: Channel, services: Sequence[str]) -> Balancing:
    """Return how the gateway balances calls of services; nothing if the mesh does not say.

    Clients may see endpoints without access to the mesh's control.
    """
    request = control.ListServiceStatesRequest(services=services)
    try:
        reply = await DynamicStub(channel, _CONTROL).ListServiceStates(request)
    except _NO_ANSWER:
        return {}
    return group_by_service(reply.balancing)


def group_by_service(found: Iterable[control.ServiceBalancing]) -> Balancing:
    """Return these by their services."""
    groups: dict[str, list[control.ServiceBalancing]] = {}
    for each in found:
        groups.setdefault(each.service, []).append(each)
    return groups


def to_plain_state(state: registry.ServiceState, balancing: Balancing) -> dict[str, Any]:
    """Return the JSON object of a service, with the channels to it."""
    channels = balancing.get(state.service, ())
    return {**to_plain(state), "balancing": [to_plain(each) for each in channels]}


def describe_balancing(
    endpoint: registry.Endpoint, channels: Sequence[control.ServiceBalancing]
) -> Iterator[str]:
    """Yield why the mesh's own channels send no calls to an endpoint, if so."""
    known = (
        each
        for channel in channels
        for each in channel.endpoints
        if each.endpoint_id == endpoint.id
    )
    # Usually there is one channel; the second has some of its endpoints.
    for each in list(known)[:1]:
        if each.HasField("ejection"):
            until = formatting.format_time(each.ejection.until)
            yield f"ejected until {until} ({each.ejection.rule})"
        if each.connect_error:
            yield f"not connected: {each.connect_error}"
        elif not each.healthy:
            yield "not healthy"
