"""How the gateway's channels balance calls, for the control API."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import trio

from meshtrio.client.channel_endpoint import ChannelEndpoint
from meshtrio.client.load_balancer import LoadBalancer
from meshtrio.client.load_balancing.outlier_detection import EjectedHost
from meshtrio.gateway.router import Router
from meshtrio.messages import control
from meshtrio.util.text import replace_surrogates


def list_balancing(router: Router, services: Sequence[str]) -> list[Any]:
    """Return a ServiceBalancing message for each open channel to one of these services."""
    return [
        _make_service(name, found[name].channel.picker, own_only=found is router.own_channels)
        for name in services
        for found in (router.channels, router.own_channels)
        if name in found
    ]


def _make_service(name: str, picker: LoadBalancer, *, own_only: bool) -> Any:
    epoch = time.time() - trio.current_time()
    return control.ServiceBalancing(
        service=name,
        own_endpoints_only=own_only,
        policy=picker.policy_name,
        waiting=picker.pending_count,
        endpoints=[_make_endpoint(each, picker, epoch) for each in picker.endpoints],
    )


def _make_endpoint(endpoint: ChannelEndpoint, picker: LoadBalancer, epoch: float) -> Any:
    subchannel, ejection = endpoint.subchannel, picker.find_ejection(endpoint)
    return control.EndpointBalancing(
        endpoint_id=replace_surrogates(endpoint.endpoint.id),
        address=replace_surrogates(endpoint.endpoint.address),
        connectivity=subchannel.connectivity,
        available=endpoint.is_ready,
        in_flight=max(endpoint.in_flight, 0),
        weight=endpoint.weight,
        priority=endpoint.priority,
        ejection=None if ejection is None else _make_ejection(ejection, epoch),
        healthy=endpoint.is_healthy,
        failed_connects=subchannel.failed_connects,
        connect_error=replace_surrogates(subchannel.connect_error),
        retries=endpoint.retries,
        ejections=picker.count_ejections(endpoint),
    )


def _make_ejection(ejection: EjectedHost, epoch: float) -> Any:
    since, until = epoch + ejection.since, epoch + ejection.until
    return control.EndpointEjection(since=since, until=until, rule=ejection.rule.value)
