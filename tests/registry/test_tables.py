"""[[service]] tables in a registry, as they are at first and after a reload."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshtrio.address import TlsFiles
from meshtrio.client.endpoint import LOCAL, REMOTE, Endpoint, ServiceState
from meshtrio.config import ServiceTable
from meshtrio.registry import UnknownServiceError
from meshtrio.registry.memory import MemoryRegistry
from meshtrio.registry.tables import follow
from meshtrio.services.registry_messages import from_message, to_message

A, B = "tcp:10.0.0.1:7000", "tcp:10.0.0.2:7000"


def addresses(registry: MemoryRegistry, service: str) -> list[str]:
    return [endpoint.address for endpoint in registry.resolve(service).endpoints]


def test_tables_of_one_name_are_one_service() -> None:
    registry = MemoryRegistry()
    tls = TlsFiles(ca=Path("/ca.pem"))
    tables = [
        ServiceTable("s", ["tcp://10.0.0.1:7000"], tls=tls, config={"loadBalancingConfig": []}),
        ServiceTable("s", ["tcp://10.0.0.2:7000", "unix:/run/s"], weight=3, local=True),
    ]
    follow(registry, [], tables)
    first, second, third = registry.resolve("s").endpoints
    assert (first.address, first.weight, first.priority, first.tls) == (A, 1, REMOTE, tls)
    assert (second.address, second.weight, second.priority, second.tls) == (B, 3, LOCAL, None)
    assert third.address == "unix:/run/s"
    assert registry.resolve("s").service_config == '{"loadBalancingConfig": []}'


def test_a_reload_touches_what_it_changes() -> None:
    registry = MemoryRegistry()
    before = [ServiceTable("s", [A, B], config={"healthCheckConfig": {}}), ServiceTable("t", [A])]
    after = [ServiceTable("s", [B]), ServiceTable("s", [A], weight=2), ServiceTable("u")]
    follow(registry, [], before)
    kept = registry.resolve("s").endpoints[1]
    follow(registry, before, after)
    assert kept in registry.resolve("s").endpoints
    assert sorted(addresses(registry, "s")) == [A, B]
    assert {e.weight for e in registry.resolve("s").endpoints if e.address == A} == {2}
    assert registry.resolve("s").service_config == ""
    assert addresses(registry, "t") == []
    assert "taken out of the config" in registry.resolve("t").departures[-1].reason
    assert registry.services() == ("s", "t", "u")


def test_all_of_a_state_crosses_to_another_process() -> None:
    files = TlsFiles(Path("/ca"), Path("/cert"), Path("/key"), "name")
    endpoints = (
        Endpoint("a", A, weight=3, priority=REMOTE, tls=files),
        Endpoint("b", "unix:/x", instance=2, pid=7),
        Endpoint("c", B, tls=TlsFiles()),
    )
    state = ServiceState(endpoints, service_config='{"methodConfig": []}')
    assert from_message(to_message("s", state)) == state


async def test_a_forgotten_service_is_unknown_until_it_is_declared_again() -> None:
    registry = MemoryRegistry()
    registry.declare("s")
    states = registry.states("s")
    assert (await anext(states)).endpoints == ()
    registry.forget("s")
    with pytest.raises(UnknownServiceError):
        registry.resolve("s")
    endpoint = Endpoint("a", A)
    registry.register("s", endpoint)
    # Who watched it all the time is told.
    assert (await anext(states)).endpoints == (endpoint,)
    registry.forget("s")
    assert registry.resolve("s").endpoints == (endpoint,)
    await states.aclose()
