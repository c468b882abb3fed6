"""The queries of one lookup, against answers that the test gives."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from meshtrio.discovery.dns.answers import DnsAnswer, FailureKind, LookupFailedError, UnresolvedHost
from meshtrio.discovery.dns.lookup import MAX_SRV_HOSTS, RecordSet, lookup_hosts, lookup_srv

NO_NAME = LookupFailedError(FailureKind.NO_NAME, "no name")
EMPTY = LookupFailedError(FailureKind.EMPTY, "empty")
TIMEOUT = LookupFailedError(FailureKind.TIMEOUT, "timeout")
ERROR = LookupFailedError(FailureKind.ERROR, "error")
HOST = UnresolvedHost("echo", False, 7000)


class Answers:
    """Answers queries by name and type; NXDOMAIN for others."""

    def __init__(self, answers: dict[tuple[str, str], Any]) -> None:
        self._answers = answers
        self.queries: list[tuple[str, str]] = []

    async def __call__(self, name: str, record_type: str) -> RecordSet:
        self.queries.append((name, record_type))
        found = self._answers.get((name, record_type), NO_NAME)
        if isinstance(found, LookupFailedError):
            raise found
        return found  # type: ignore[no-any-return]


def addresses(*found: str, ttl: float = 30) -> RecordSet:
    return RecordSet(tuple(SimpleNamespace(address=each) for each in found), ttl)


def services(
    *found: tuple[int, int, int, str], ttl: float = 30, **additional: tuple[str, ...]
) -> RecordSet:
    """SRV records: priority, weight, port and target."""

    def make(priority: int, weight: int, port: int, target: str) -> Any:
        name = SimpleNamespace(to_text=lambda: target)
        return SimpleNamespace(priority=priority, weight=weight, port=port, target=name)

    return RecordSet(tuple(make(*each) for each in found), ttl, additional, 5 if additional else 0)


def ips(answer: DnsAnswer) -> list[str]:
    return [record.ip for record in answer.records]


async def test_both_families_are_looked_up() -> None:
    query = Answers(
        {("echo", "A"): addresses("10.0.0.1"), ("echo", "AAAA"): addresses("::1", ttl=3)}
    )
    answer = await lookup_hosts(query, [HOST])
    assert ips(answer) == ["10.0.0.1", "::1"]
    assert (answer.ttl, answer.unresolved, answer.problem) == (3, (), "")


@pytest.mark.parametrize("other", [NO_NAME, EMPTY])
async def test_one_family_is_enough(other: LookupFailedError) -> None:
    query = Answers({("echo", "AAAA"): addresses("::1"), ("echo", "A"): other})
    answer = await lookup_hosts(query, [HOST])
    assert (ips(answer), answer.unresolved) == (["::1"], ())


@pytest.mark.parametrize("other", [TIMEOUT, ERROR])
async def test_a_family_that_fails_is_not_resolved(other: LookupFailedError) -> None:
    query = Answers({("echo", "A"): addresses("10.0.0.1"), ("echo", "AAAA"): other})
    answer = await lookup_hosts(query, [HOST])
    assert answer.unresolved == (HOST.replace(is_ipv6=True),)
    assert answer.problem == other.reason


@pytest.mark.parametrize(
    ("first", "second", "kind"),
    [
        (NO_NAME, NO_NAME, FailureKind.NO_NAME),
        (NO_NAME, EMPTY, FailureKind.EMPTY),
        (EMPTY, TIMEOUT, FailureKind.TIMEOUT),
        (ERROR, TIMEOUT, FailureKind.ERROR),
    ],
)
async def test_the_worst_failure_counts(first: Any, second: Any, kind: FailureKind) -> None:
    query = Answers({("echo", "A"): first, ("echo", "AAAA"): second})
    with pytest.raises(LookupFailedError) as caught:
        await lookup_hosts(query, [HOST])
    assert caught.value.kind is kind


async def test_addresses_that_cannot_be_called_are_left_out() -> None:
    query = Answers({
        ("echo", "A"): addresses("0.0.0.0", "224.0.0.1", "127.0.0.1"),
        ("echo", "AAAA"): addresses("::", "ff02::1", "::ffff:127.0.0.2"),
    })  # fmt: skip
    assert ips(await lookup_hosts(query, [HOST])) == ["127.0.0.1", "127.0.0.2"]
    query = Answers({("echo", "A"): addresses("0.0.0.0")})
    with pytest.raises(LookupFailedError) as caught:
        await lookup_hosts(query, [HOST])
    assert caught.value.kind is FailureKind.EMPTY


async def test_hosts_of_srv_records_are_absolute() -> None:
    query = Answers({
        ("_x", "SRV"): services((1, 5, 7001, "A.internal."), (2, 0, 7002, "b.internal.")),
        ("a.internal.", "A"): addresses("10.0.0.1", ttl=9),
        ("b.internal.", "AAAA"): addresses("::1"),
    })  # fmt: skip
    answer = await lookup_srv(query, "_x")
    found = [(r.host, r.address, r.priority, r.weight) for r in answer.records]
    assert found == [
        ("a.internal", "tcp:10.0.0.1:7001", 1, 5),
        ("b.internal", "tcp:[::1]:7002", 2, 0),
    ]
    assert answer.ttl == 9


async def test_addresses_that_came_along_are_used() -> None:
    query = Answers({
        ("_x", "SRV"): services((1, 5, 7001, "a."), (1, 5, 7002, "b."), a=("10.0.0.1", "::1")),
        ("b.", "A"): addresses("10.0.0.2"),
    })  # fmt: skip
    answer = await lookup_srv(query, "_x")
    assert ips(answer) == ["10.0.0.1", "::1", "10.0.0.2"]
    assert answer.ttl == 5
    assert ("a.", "A") not in query.queries


async def test_hosts_that_cannot_be_looked_up_are_not_lost() -> None:
    found = services((1, 5, 7001, "a."), (1, 6, 7002, "b."), a=("10.0.0.1",))
    answer = await lookup_srv(Answers({("_x", "SRV"): found, ("b.", "A"): TIMEOUT}), "_x")
    assert ips(answer) == ["10.0.0.1"]
    expected = UnresolvedHost("b", False, 7002, 1, 6)
    assert answer.unresolved == (expected, expected.replace(is_ipv6=True))
    assert answer.problem == "timeout"


@pytest.mark.parametrize("records", [(), ((0, 0, 0, "a."),), ((0, 0, 7000, "."),)])
async def test_srv_records_may_say_that_there_is_no_service(records: Any) -> None:
    with pytest.raises(LookupFailedError) as caught:
        await lookup_srv(Answers({("_x", "SRV"): services(*records)}), "_x")
    assert caught.value.kind is FailureKind.EMPTY


async def test_the_number_of_hosts_is_bounded() -> None:
    records = [(number, 0, 7000, f"h{number}.") for number in range(100)]
    query = Answers({("_x", "SRV"): services(*reversed(records)), ("h0.", "A"): addresses("::1")})
    assert len((await lookup_srv(query, "_x")).records) == 1
    assert len(query.queries) == 1 + 2 * MAX_SRV_HOSTS
    assert ("h63.", "A") in query.queries
