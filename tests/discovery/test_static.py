"""[[service]] tables in a registry, as they are at first and after a reload."""

from __future__ import annotations

from pathlib import Path

import pytest
from purerpc import NotFoundError

from meshtrio.config import StaticServiceConfig
from meshtrio.discovery.endpoint import LOCAL_PRIORITY, REMOTE_PRIORITY, Endpoint, ServiceState
from meshtrio.discovery.registry import Registry
from meshtrio.discovery.registry_messages import state_from_message, state_to_message
from meshtrio.discovery.static import apply_service_tables
from meshtrio.util.tls_config import ClientTlsConfig

A, B = "tcp:10.0.0.1:7000", "tcp:10.0.0.2:7000"


def addresses(registry: Registry, service: str) -> list[str]:
    return [endpoint.address for endpoint in registry.resolve(service).endpoints]


def test_tables_of_one_name_are_one_service() -> None:
    registry = Registry()
    tls = ClientTlsConfig(ca=Path("/ca.pem"))
    tables = [
        StaticServiceConfig(
            "s", ["tcp://10.0.0.1:7000"], tls=tls, config={"loadBalancingConfig": []}
        ),
        StaticServiceConfig("s", ["tcp://10.0.0.2:7000", "unix:/run/s"], weight=3, local=True),
    ]
    apply_service_tables(registry, [], tables)
    first, second, third = registry.resolve("s").endpoints
    assert (first.address, first.weight, first.priority, first.tls) == (A, 1, REMOTE_PRIORITY, tls)
    assert (second.address, second.weight, second.priority, second.tls) == (
        B,
        3,
        LOCAL_PRIORITY,
        None,
    )
    assert third.address == "unix:/run/s"
    assert registry.resolve("s").service_config == '{"loadBalancingConfig": []}'


def test_a_reload_touches_what_it_changes() -> None:
    registry = Registry()
    before = [
        StaticServiceConfig("s", [A, B], config={"healthCheckConfig": {}}),
        StaticServiceConfig("t", [A]),
    ]
    after = [
        StaticServiceConfig("s", [B]),
        StaticServiceConfig("s", [A], weight=2),
        StaticServiceConfig("u"),
    ]
    apply_service_tables(registry, [], before)
    kept = registry.resolve("s").endpoints[1]
    apply_service_tables(registry, before, after)
    assert kept in registry.resolve("s").endpoints
    assert sorted(addresses(registry, "s")) == [A, B]
    assert {e.weight for e in registry.resolve("s").endpoints if e.address == A} == {2}
    assert registry.resolve("s").service_config == ""
    assert addresses(registry, "t") == []
    assert "removed from the config" in registry.resolve("t").exit_infos[-1].reason
    assert registry.services() == ("s", "t", "u")


def test_all_of_a_state_crosses_to_another_process() -> None:
    files = ClientTlsConfig(Path("/ca"), Path("/cert"), Path("/key"), "name")
    endpoints = (
        Endpoint("a", A, weight=3, priority=REMOTE_PRIORITY, tls=files),
        Endpoint("b", "unix:/x", instance=2, pid=7),
        Endpoint("c", B, tls=ClientTlsConfig()),
    )
    state = ServiceState(endpoints, service_config='{"methodConfig": []}')
    assert state_from_message(state_to_message("s", state)) == state


async def test_a_forgotten_service_is_unknown_until_it_is_declared_again() -> None:
    registry = Registry()
    registry.add_service("s")
    states = registry.watch("s")
    assert (await anext(states)).endpoints == ()
    registry.remove_service("s")
    with pytest.raises(NotFoundError):
        registry.resolve("s")
    endpoint = Endpoint("a", A)
    registry.register("s", endpoint)
    # Who watched it all the time is told.
    assert (await anext(states)).endpoints == (endpoint,)
    registry.remove_service("s")
    assert registry.resolve("s").endpoints == (endpoint,)
    await states.aclose()
