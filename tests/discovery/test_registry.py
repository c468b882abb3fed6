"""The registry in memory: register, deregister, resolve, watch."""

from __future__ import annotations

import pytest
import trio
from purerpc import NotFoundError

from meshtrio.discovery.endpoint import Endpoint, ExitInfo, ServiceState
from meshtrio.discovery.registry import Registry, watch_service

A = Endpoint(id="a", address="unix:/a")
B = Endpoint(id="b", address="unix:/b")


def test_endpoints_are_in_the_order_they_came() -> None:
    registry = Registry()
    registry.register("s", A)
    registry.register("s", B)
    assert registry.resolve("s") == ServiceState((A, B), unmanaged=True)
    assert registry.services() == ("s",)


def test_a_departure_takes_the_endpoint_and_leaves_its_reason() -> None:
    registry = Registry()
    registry.register("s", A)
    registry.register("s", B)
    gone = ExitInfo("a", "it died", signal=9)
    registry.deregister("s", gone)
    assert registry.resolve("s") == ServiceState((B,), (gone,), unmanaged=True)


def test_the_last_word_on_an_endpoint_stands() -> None:
    registry = Registry()
    registry.register("s", A)
    registry.deregister("s", ExitInfo("a", "is being stopped"))
    registry.deregister("s", ExitInfo("a", "was killed", signal=9))
    assert [d.reason for d in registry.resolve("s").exit_infos] == ["was killed"]


def test_departures_are_bounded() -> None:
    registry = Registry()
    registry.add_service("s")
    for number in range(100):
        registry.deregister("s", ExitInfo(str(number), "gone"))
    kept = registry.resolve("s").exit_infos
    assert [d.endpoint_id for d in kept] == [str(number) for number in range(84, 100)]


def test_an_id_cannot_be_registered_twice() -> None:
    registry = Registry()
    registry.register("s", A)
    with pytest.raises(ValueError, match="registered already"):
        registry.register("s", A)


def test_an_unknown_service_is_told_with_those_that_are_known() -> None:
    registry = Registry()
    registry.add_service("plugin.one")
    with pytest.raises(NotFoundError, match=r"plugin\.tow.*plugin\.one"):
        registry.resolve("plugin.tow")
    with pytest.raises(NotFoundError):
        registry.deregister("plugin.tow", ExitInfo("a", "gone"))


async def test_a_watcher_is_given_the_state_and_each_change() -> None:
    registry = Registry()
    registry.add_service("s")
    seen: list[ServiceState] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_service, registry, "s", seen.append)
        await trio.testing.wait_all_tasks_blocked()
        assert seen == [ServiceState()]
        registry.register("s", A)
        await trio.testing.wait_all_tasks_blocked()
        assert seen[-1] == ServiceState((A,))
        nursery.cancel_scope.cancel()


async def test_a_slow_watcher_misses_states_but_not_the_last() -> None:
    registry = Registry()
    registry.add_service("s")
    states = registry.watch("s")
    assert await anext(states) == ServiceState()
    for number in range(1000):
        registry.register("s", Endpoint(id=str(number), address="unix:/x"))
    assert len((await anext(states)).endpoints) == 1000
    await states.aclose()


async def test_watching_an_unknown_service_fails() -> None:
    with pytest.raises(NotFoundError):
        await watch_service(Registry(), "s", print)


def test_what_is_declared_is_attended_to_and_what_is_only_registered_is_not() -> None:
    registry = Registry()
    registry.add_service("run")
    registry.register("run", A)
    registry.register("met", B)
    assert not registry.resolve("run").unmanaged
    assert registry.resolve("met").unmanaged
    registry.add_service("met")
    assert not registry.resolve("met").unmanaged
    registry.remove_service("met")
    assert registry.resolve("met").unmanaged
    assert registry.has_service("met")


def test_the_revision_grows_when_a_service_comes_or_goes() -> None:
    registry = Registry()
    revisions = [registry.revision]

    def note() -> None:
        revisions.append(registry.revision)

    registry.add_service("a")
    note()
    registry.remove_service("a")
    note()
    registry.add_service("a")
    note()
    assert revisions == sorted(set(revisions))
    registry.add_service("a")
    assert registry.revision == revisions[-1]


def test_names_that_nobody_serves_nor_watches_any_more_are_bounded() -> None:
    registry = Registry()
    for number in range(1000):
        service = f"s{number}"
        registry.register(service, A)
        registry.deregister(service, ExitInfo("a", "gone"))
    assert len(registry.services()) == 256
    assert "s999" in registry.services()


async def test_a_name_that_is_watched_is_kept() -> None:
    registry = Registry()
    registry.register("watched", A)
    registry.deregister("watched", ExitInfo("a", "gone"))
    states = registry.watch("watched")
    await anext(states)
    for number in range(1000):
        registry.register(f"s{number}", A)
        registry.deregister(f"s{number}", ExitInfo("a", "gone"))
    assert registry.has_service("watched")
    await states.aclose()
    for number in range(300):
        registry.register(f"t{number}", A)
        registry.deregister(f"t{number}", ExitInfo("a", "gone"))
    assert not registry.has_service("watched")


def test_only_the_last_departure_has_a_tail_and_reasons_are_bounded() -> None:
    registry = Registry()
    for number in range(20):
        name = f"{number}"
        registry.register("s", Endpoint(name, "unix:/x"))
        registry.deregister("s", ExitInfo(name, "x" * 5000, exit_status=1, stderr_tail=("y",)))
    departures = registry.resolve("s").exit_infos
    assert [each.stderr_tail for each in departures] == [()] * 15 + [("y",)]
    assert {len(each.reason) for each in departures} == {1000}


def test_an_error_does_not_name_thousands_of_services() -> None:
    registry = Registry()
    for number in range(1000):
        registry.add_service(f"service-{number}")
    with pytest.raises(NotFoundError, match="and 950 more") as caught:
        registry.resolve("other")
    assert len(str(caught.value)) < 1000
