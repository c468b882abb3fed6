"""Entries of etcd as endpoints."""

from __future__ import annotations

from meshtrio.discovery.endpoint import (
    OTHER_ZONE_PRIORITY,
    REMOTE_PRIORITY,
    Endpoint,
    ServiceState,
)
from meshtrio.discovery.etcd_entries import EndpointEntry, NodeEntry, make_node_key
from meshtrio.discovery.node_services import NodeServices, StoredEntry
from meshtrio.discovery.registry import Manager, Registry
from meshtrio.discovery.registry_messages import state_from_message, state_to_message

SERVICE = "plugin.echo"


def put(entry: EndpointEntry, revision: int = 1) -> StoredEntry:
    return StoredEntry(entry.make_key("m"), entry.make_value(), revision)


def put_node(name: str, revision: int = 1) -> StoredEntry:
    entry = NodeEntry(name, "tcp:10.0.0.1:1", "z", "id", 1.0, "1")
    return StoredEntry(make_node_key("m", name), entry.make_value(), revision)


def make_services(own_node: str = "own", zone: str = "z") -> NodeServices:
    return NodeServices("m", own_node, zone, None)


def instance(node: str, number: int, **fields: object) -> EndpointEntry:
    entry = EndpointEntry(SERVICE, f"tcp:10.0.0.1:{number + 1}", node, number, zone="z")
    return entry.replace(**fields)


def test_a_gateway_is_one_endpoint_with_the_weight_of_its_instances() -> None:
    services = make_services()
    gateway = {"is_gateway": True, "address": "tcp:10.0.0.9:7443"}
    entries = [instance("a", 0, **gateway), instance("a", 1, weight=3, **gateway)]
    changed = services.apply(map(put, [*entries, instance("a", 2)]), [], is_snapshot=True)
    assert changed == {SERVICE}
    direct, through_gateway = services.make_endpoints(SERVICE)
    assert (direct.address, direct.instance, direct.weight) == ("tcp:10.0.0.1:3", 2, 1)
    assert through_gateway.weight == 4
    assert through_gateway.is_gateway
    # A change of the weight is no other endpoint, and no other connection.
    services.apply([], [entries[1].make_key("m")], is_snapshot=False)
    after = services.make_endpoints(SERVICE)[1]
    assert (after.id, after.weight) == (through_gateway.id, 1)
    assert after.connection_key == through_gateway.connection_key


def test_gateways_of_two_services_share_a_connection_and_other_endpoints_none() -> None:
    one = Endpoint("x", "tcp:h:1", node="a", is_gateway=True, weight=2)
    other = Endpoint("y", "tcp:h:1", node="a", is_gateway=True, priority=2)
    assert one.connection_key == other.connection_key
    restarted = one.replace(is_gateway=False), other.replace(is_gateway=False)
    assert restarted[0].connection_key != restarted[1].connection_key


def test_a_node_that_joins_again_has_other_endpoints() -> None:
    services, gateway = make_services(), instance("a", 0, is_gateway=True)
    services.apply([put_node("a"), put(gateway)], [], is_snapshot=True)
    (before,) = services.make_endpoints(SERVICE)
    services.apply([], [gateway.make_key("m"), make_node_key("m", "a")], is_snapshot=False)
    assert services.make_endpoints(SERVICE) == []
    assert "node a has left" in services.describe_end(before)
    services.apply([put_node("a", 7), put(gateway, 8)], [], is_snapshot=False)
    assert services.make_endpoints(SERVICE)[0].id != before.id


def test_the_same_zone_comes_first() -> None:
    services = make_services()
    far = instance("b", 1, zone="elsewhere")
    services.apply(map(put, [instance("a", 0), far]), [], is_snapshot=True)
    found = [each.priority for each in services.make_endpoints(SERVICE)]
    assert found == [REMOTE_PRIORITY, OTHER_ZONE_PRIORITY]


def test_nodes_where_it_is_idle_come_last() -> None:
    services = make_services()
    gateway = {"is_gateway": True, "is_idle": True, "address": "tcp:10.0.0.9:7443"}
    near, far = instance("a", 0, **gateway), instance("b", 0, zone="elsewhere", **gateway)
    services.apply(map(put, [near, far]), [], is_snapshot=True)
    found = services.make_endpoints(SERVICE)
    assert [(each.priority, each.is_idle_node) for each in found] == [(3, True), (4, True)]
    # An instance makes it another priority of the same endpoint.
    services.apply([put(near.replace(is_idle=False))], [], is_snapshot=False)
    after = services.make_endpoints(SERVICE)
    assert {each.id for each in after} == {each.id for each in found}
    assert sorted((each.priority, each.is_idle_node) for each in after) == [(1, False), (4, True)]
    state = ServiceState(tuple(after), on_demand=True).without_idle_nodes()
    assert [each.priority for each in state.endpoints] == [1]
    # What a client is told by its mesh is the same.
    assert state_from_message(state_to_message(SERVICE, state)) == state


def test_entries_of_this_node_are_kept_apart() -> None:
    services, own = make_services(), instance("own", 0)
    assert services.apply([put(own)], [], is_snapshot=True) == set()
    assert services.own.keys() == {own.make_key("m")}
    assert services.take_changed_own_keys() == {own.make_key("m")}
    assert services.take_changed_own_keys() == set()
    services.apply([], [own.make_key("m")], is_snapshot=False)
    assert services.take_changed_own_keys() == {own.make_key("m")}
    assert not services.own


def test_a_snapshot_removes_what_is_not_in_it() -> None:
    services = make_services()
    garbage = StoredEntry("m/x/y", b"garbage", 1)
    services.apply([put(instance("a", 0)), put_node("a"), garbage], [], is_snapshot=True)
    assert services.problems == {"m/x/y": "it is not JSON"}
    assert services.apply([], [], is_snapshot=True) == {SERVICE}
    assert (services.make_endpoints(SERVICE), services.nodes, services.problems) == ([], {}, {})


def test_a_key_that_becomes_garbage_is_gone_until_it_is_mended() -> None:
    services, entry = make_services(), instance("a", 0)
    services.apply([put(entry)], [], is_snapshot=True)
    broken = StoredEntry(entry.make_key("m"), b"{", 1)
    assert services.apply([broken], [], is_snapshot=False) == {SERVICE}
    assert services.make_endpoints(SERVICE) == []
    assert services.apply([put(entry)], [], is_snapshot=False) == {SERVICE}
    assert services.problems == {}


def test_a_registry_keeps_its_own_endpoints_beside_those_of_nodes() -> None:
    registry, ended = Registry(), []
    registry.add_service("s", Manager.OTHER_NODES)
    registry.register("s", Endpoint("own", "unix:/a", pid=1))
    first, second = (Endpoint(name, "tcp:h:1", node="a") for name in ("1", "2"))
    registry.set_node_endpoints("s", [first], str)
    registry.set_node_endpoints("s", [second], lambda endpoint: f"end of {endpoint.id}")
    state = registry.resolve("s")
    assert [each.id for each in state.endpoints] == ["own", "2"]
    assert [info.reason for info in state.exit_infos] == ["end of 1"]
    assert [each.id for each in state.without_other_nodes().endpoints] == ["own"]
    registry.set_node_endpoints("s", [first], str)
    assert [info.endpoint_id for info in registry.resolve("s").exit_infos] == ["2"]
    assert not ended


def test_a_service_is_managed_as_long_as_one_of_its_managers_is_there() -> None:
    registry, claims = Registry(), []
    registry.on_claim = claims.append
    registry.add_service("s", Manager.OTHER_NODES)
    registry.add_service("s")
    registry.remove_service("s")
    assert registry.is_managed("s")
    registry.remove_service("s", Manager.OTHER_NODES)
    assert not registry.has_service("s")
    assert claims == ["s"]  # Other nodes do not take names from programs of this host.


def test_followers_learn_which_services_have_changed() -> None:
    registry = Registry()
    changes = registry.follow_changes()
    registry.add_service("a")
    registry.add_service("b")
    changes.services.clear()
    registry.register("b", Endpoint("1", "unix:/b"))
    registry.add_service("a")
    assert changes.services == {"b"}
