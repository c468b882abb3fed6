"""The URL of etcd for clients, and addresses that other nodes can reach."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshtrio.cluster.discovery_url import parse_discovery_url
from meshtrio.cluster.own_endpoints import is_reachable, make_own_entries
from meshtrio.config import DiscoveryConfig
from meshtrio.discovery.endpoint import REMOTE_PRIORITY, Endpoint, ServiceState
from meshtrio.discovery.etcd_entries import parse_entry
from meshtrio.util.address import Address
from meshtrio.util.errors import ConfigError
from meshtrio.util.tls_config import ClientTlsConfig


def test_it_has_all_that_a_client_needs() -> None:
    url = "etcds://a:1,b/some/prefix?ca=/ca.pem&peer_ca=/p.pem&peer_server_name=n&zone=z&user=u"
    config = parse_discovery_url(f"{url}&password_file=/secret")
    assert config.etcd == ("https://a:1", "https://b:2379")
    assert (config.prefix, config.zone, config.user) == ("some/prefix", "z", "u")
    assert config.tls == ClientTlsConfig(Path("/ca.pem"))
    assert config.peer_tls == ClientTlsConfig(Path("/p.pem"), server_name="n")
    assert config.password_file == Path("/secret")
    assert parse_discovery_url("etcd://[::1]").etcd == ("http://[::1]:2379",)
    assert parse_discovery_url("etcd://h").prefix == "meshtrio"


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("etcd:host", "is not etcd://host:port/prefix"),
        ("http://host", "is not etcd://host:port/prefix"),
        ("etcd://", "is not etcd://host:port/prefix"),
        ("etcd://host:x", "is not http://host:port"),
        ("etcd://host/p?nonsense=1", "'nonsense' is none of ca, certificate"),
        ("etcd://host/p?zone", "is not a URL"),
        ("etcd://u:secret@host", "set user and password_file instead"),
        ("etcd://host/.nodes", "is not a prefix"),
    ],
)
def test_others_are_refused(url: str, problem: str) -> None:
    with pytest.raises(ConfigError, match="discovery") as caught:
        parse_discovery_url(url)
    assert problem in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("tcp:10.0.0.1:1", True),
        ("tcp:host.example:1", True),
        ("tcp:[fd00::1]:1", True),
        ("tcp:127.0.0.2:1", False),
        ("tcp:localhost:1", False),
        ("tcp:0.0.0.0:1", False),
        ("tcp:[::1]:1", False),
        ("unix:/a", False),
    ],
)
def test_addresses_that_other_hosts_may_connect_to(address: str, expected: bool) -> None:
    assert is_reachable(Address.parse(address)) is expected


def entries(config: DiscoveryConfig, *endpoints: Endpoint) -> dict[str, tuple[str, bool, int]]:
    found = make_own_entries("plugin.p", ServiceState(endpoints), config)
    return {key: (each.address, each.is_gateway, each.instance) for key, each in found.items()}


def test_plugins_are_called_straight_if_they_can_be_else_by_the_gateway() -> None:
    config = DiscoveryConfig(etcd=["http://h"], node="n", advertise="tcp://10.0.0.5:7443")
    tls = ClientTlsConfig()
    on_port = Endpoint("1", "tcp:10.0.0.5:80", instance=3, pid=9)
    found = entries(config, Endpoint("0", "unix:/p-0.sock", instance=0, pid=8), on_port)
    assert found == {
        "meshtrio/plugin.p/n/0": ("tcp:10.0.0.5:7443", True, 0),
        "meshtrio/plugin.p/n/3": ("tcp:10.0.0.5:80", False, 3),
    }
    # What has no TLS is not called straight where nodes use it, and the other way round.
    assert entries(config, on_port.replace(tls=tls))["meshtrio/plugin.p/n/3"][1]
    without_gateway = DiscoveryConfig(etcd=["http://h"], node="n")
    assert entries(without_gateway, Endpoint("0", "unix:/p-0.sock", pid=8)) == {}


def test_an_idle_plugin_is_published_as_the_gateway_that_starts_it() -> None:
    config = DiscoveryConfig(etcd=["http://h"], node="n", advertise="tcp://10.0.0.5:7443")
    idle = make_own_entries("plugin.p", ServiceState(on_demand=True), config)
    assert list(idle) == ["meshtrio/plugin.p/n/0"]
    (entry,) = idle.values()
    assert (entry.address, entry.is_gateway, entry.is_idle) == ("tcp:10.0.0.5:7443", True, True)
    assert parse_entry(config.prefix, *idle, entry.make_value()) == entry
    # Another node that has it is no reason to leave it out, and an instance is one.
    of_node = ServiceState((Endpoint("2", "tcp:10.0.0.9:1", node="other"),), on_demand=True)
    assert make_own_entries("plugin.p", of_node, config) == idle
    on_port = ServiceState((Endpoint("1", "tcp:10.0.0.5:80", instance=3, pid=9),), on_demand=True)
    assert list(make_own_entries("plugin.p", on_port, config)) == ["meshtrio/plugin.p/n/3"]
    without_gateway = DiscoveryConfig(etcd=["http://h"], node="n")
    assert make_own_entries("plugin.p", ServiceState(on_demand=True), without_gateway) == {}


def test_endpoints_of_others_are_not_published() -> None:
    config = DiscoveryConfig(etcd=["http://h"], node="n", advertise="tcp://10.0.0.5:7443")
    remote = Endpoint("1", "tcp:10.0.0.9:1", priority=REMOTE_PRIORITY)
    of_node = Endpoint("2", "tcp:10.0.0.9:1", node="other")
    assert entries(config, remote, of_node) == {}
