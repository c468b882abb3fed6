"""What the answers for a name mean for the endpoints of a table."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshtrio.discovery.dns.answers import (
    MAX_ENDPOINTS_PER_NAME,
    DnsAnswer,
    DnsRecord,
    EndpointSet,
    UnresolvedHost,
    place_records,
)
from meshtrio.discovery.endpoint import LOCAL_PRIORITY, REMOTE_PRIORITY, Endpoint
from meshtrio.util.dns_target import DnsTarget
from meshtrio.util.tls_config import ClientTlsConfig

TARGET = DnsTarget("echo.internal", 7000)
SRV = DnsTarget("_grpc._tcp.echo.internal")


def host_records(*ips: str) -> tuple[DnsRecord, ...]:
    return tuple(DnsRecord("echo.internal", ip, 7000) for ip in ips)


def answer(*ips: str) -> DnsAnswer:
    return DnsAnswer(host_records(*ips), 30)


def srv_record(number: int, priority: int, weight: int) -> DnsRecord:
    return DnsRecord(f"h{number}", f"10.0.0.{number}", 7000, priority, weight)


def test_an_address_that_stays_is_the_same_endpoint() -> None:
    endpoints = EndpointSet(TARGET)
    first = endpoints.update(answer("10.0.0.1", "10.0.0.2"))
    assert [each.address for each in first.added] == ["tcp:10.0.0.1:7000", "tcp:10.0.0.2:7000"]
    second = endpoints.update(answer("10.0.0.3", "10.0.0.2"))
    assert [each.address for each in second.added] == ["tcp:10.0.0.3:7000"]
    assert not second.changed
    (removed,) = second.removed
    assert removed.endpoint_id == first.added[0].id
    assert removed.reason == (
        "tcp:10.0.0.1:7000 is no longer among the addresses of dns:///echo.internal:7000"
    )
    assert not endpoints.update(answer("10.0.0.2", "10.0.0.3"))


def test_an_address_that_returns_is_another_endpoint() -> None:
    endpoints = EndpointSet(TARGET)
    (first,) = endpoints.update(answer("10.0.0.1")).added
    endpoints.update(answer("10.0.0.2"))
    (again,) = endpoints.update(answer("10.0.0.1")).added
    assert again.address == first.address
    assert again.id != first.id
    assert not endpoints.has_endpoint(first.id)
    assert endpoints.has_endpoint(again.id)


def test_addresses_of_both_families() -> None:
    added = EndpointSet(TARGET).update(answer("::1", "127.0.0.1", "::1")).added
    assert {each.address for each in added} == {"tcp:[::1]:7000", "tcp:127.0.0.1:7000"}


def test_endpoints_have_what_their_table_says() -> None:
    tls = ClientTlsConfig(ca=Path("/ca.pem"))
    (remote,) = EndpointSet(TARGET, 3, tls).update(answer("10.0.0.1")).added
    assert (remote.priority, remote.weight) == (REMOTE_PRIORITY, 3)
    assert remote.tls == ClientTlsConfig(ca=Path("/ca.pem"), server_name="echo.internal")
    assert remote.is_registered
    tls = ClientTlsConfig(server_name="other")
    (local,) = EndpointSet(TARGET, tls=tls, local=True).update(answer("10.0.0.1")).added
    assert (local.priority, local.weight, local.tls) == (LOCAL_PRIORITY, 1, tls)


def test_the_priorities_of_srv_records_follow_each_other() -> None:
    records = [srv_record(1, 20, 5), srv_record(2, 10, 5), srv_record(3, 65535, 5)]
    placed = place_records(records, 1, local=False)
    assert [placed[each.address].priority for each in records] == [2, 1, 3]
    placed = place_records(records, 1, local=True)
    assert [placed[each.address].priority for each in records] == [1, 0, 2]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([0, 0], [1, 1]),
        ([5, 65535], [5, 65535]),
        ([0, 1, 4], [1, 10, 40]),
        ([0, 50], [50, 500]),
    ],
)
def test_a_weight_of_zero_is_a_tenth_of_the_smallest(
    weights: list[int], expected: list[int]
) -> None:
    records = [srv_record(number, 1, weight) for number, weight in enumerate(weights)]
    records.append(srv_record(99, 2, 0))
    placed = place_records(records, 1, local=False)
    assert [placed[each.address].weight for each in records] == [*expected, 1]
    doubled = place_records(records, 2, local=False)
    assert doubled[records[0].address].weight == 2 * expected[0]
    assert place_records(records, 2**63, local=False)[records[0].address].weight == 2**32 - 1


def test_another_weight_or_priority_keeps_the_endpoint() -> None:
    endpoints = EndpointSet(SRV)
    first = DnsAnswer((srv_record(1, 1, 5), srv_record(2, 2, 5)), 30)
    added = {each.address: each for each in endpoints.update(first).added}
    changes = endpoints.update(DnsAnswer((srv_record(2, 2, 7),), 30))
    (changed,) = changes.changed
    assert changed == added["tcp:10.0.0.2:7000"].replace(priority=1, weight=7)
    assert not changes.added


def test_addresses_of_a_host_that_could_not_be_looked_up_stay() -> None:
    endpoints = EndpointSet(SRV)
    known = (srv_record(1, 1, 5), srv_record(2, 1, 5), DnsRecord("h1", "::1", 7000, 1, 5))
    endpoints.update(DnsAnswer(known, 30))
    unresolved = (UnresolvedHost("h1", False, 7000, 2, 9), UnresolvedHost("h3", False, 7000))
    changes = endpoints.update(DnsAnswer((srv_record(2, 1, 5),), 30, unresolved, "no answer"))
    # That of the other family was looked up, and there is none any more.
    assert [each.reason.split()[0] for each in changes.removed] == ["tcp:[::1]:7000"]
    (kept,) = changes.changed
    assert (kept.address, kept.priority, kept.weight) == ("tcp:10.0.0.1:7000", 2, 9)
    again = endpoints.update(DnsAnswer((srv_record(2, 1, 5),), 30, unresolved, "no answer"))
    assert not again


def test_an_address_with_several_records_has_the_best() -> None:
    records = (srv_record(1, 2, 5), srv_record(1, 1, 3), srv_record(1, 1, 4))
    (endpoint,) = EndpointSet(SRV).update(DnsAnswer(records, 30)).added
    assert (endpoint.priority, endpoint.weight) == (REMOTE_PRIORITY, 4)


def test_a_name_has_a_bounded_number_of_endpoints() -> None:
    endpoints = EndpointSet(TARGET)
    known = answer(*(f"10.1.0.{number}" for number in range(200)))
    endpoints.update(known)
    more = [f"10.0.{number // 250}.{number % 250}" for number in range(1000)]
    changes = endpoints.update(DnsAnswer((*host_records(*more), *known.records), 30))
    assert len(endpoints) == MAX_ENDPOINTS_PER_NAME
    assert endpoints.left_out == 1200 - MAX_ENDPOINTS_PER_NAME
    assert not changes.removed, "those that are in use stay"
    assert not endpoints.update(DnsAnswer((*known.records, *host_records(*reversed(more))), 30))


def test_all_are_removed_with_their_table() -> None:
    endpoints = EndpointSet(TARGET)
    endpoints.update(answer("10.0.0.1"))
    (exit_info,) = endpoints.clear("was removed from the config").removed
    assert exit_info.reason == "tcp:10.0.0.1:7000 was removed from the config"
    assert len(endpoints) == 0


@given(st.lists(st.lists(
    st.builds(
        srv_record, st.integers(1, 9), st.sampled_from([0, 1, 10, 65535]),
        st.sampled_from([0, 1, 7, 65535]),
    ),
    min_size=1, max_size=12,
), max_size=12))  # fmt: skip
def test_a_registry_that_applies_the_changes_has_the_last_answer(
    answers: list[list[DnsRecord]],
) -> None:
    endpoints, registry, used = EndpointSet(SRV), dict[str, Endpoint](), set[str]()
    for records in answers:
        changes = endpoints.update(DnsAnswer(tuple(records), 30))
        for each in changes.added:
            assert each.id not in used
            used.add(each.id)
            registry[each.id] = each
        for each in changes.changed:
            assert registry[each.id].address == each.address
            registry[each.id] = each
        for exit_info in changes.removed:
            del registry[exit_info.endpoint_id]
        found = {each.address: each for each in registry.values()}
        assert found.keys() == {record.address for record in records}
        assert len(found) == len(registry) == len(endpoints)
        best: dict[str, int] = {}
        for record in records:
            best[record.address] = min(best.get(record.address, 2**16), record.priority)
        order = sorted(set(best.values()))
        for address, endpoint in found.items():
            assert endpoint.priority == REMOTE_PRIORITY + order.index(best[address])
            assert endpoint.weight >= 1
