"""What a client knows of a service over the lives of several meshes."""

from __future__ import annotations

import trio
import trio.testing

from meshtrio.client.remote_mesh import ServiceStateCache
from meshtrio.discovery.endpoint import Endpoint, ExitInfo, ServiceState

A, B = Endpoint("a", "unix:/a"), Endpoint("b", "unix:/b")
A_AGAIN = Endpoint("a2", "unix:/a")


def told() -> tuple[ServiceStateCache, list[tuple[str, ...]]]:
    found: list[tuple[str, ...]] = []
    known = ServiceStateCache(lambda state: found.append(tuple(e.id for e in state.endpoints)))
    return known, found


def test_a_new_mesh_that_does_not_know_an_endpoint_yet_does_not_take_it_away() -> None:
    known, found = told()
    known.update(ServiceState((A, B)), is_new_mesh=False)
    known.update(ServiceState(()), is_new_mesh=True)
    assert found[-1] == ("a", "b")
    # One has returned, as another registration of the same address.
    known.update(ServiceState((A_AGAIN,)), is_new_mesh=False)
    assert found[-1] == ("a2", "b")
    known.update(ServiceState((A_AGAIN, B)), is_new_mesh=False)
    assert found[-1] == ("a2", "b")
    known.update(ServiceState((A_AGAIN,)), is_new_mesh=False)
    assert found[-1] == ("a2",)


def test_what_the_mesh_says_is_gone_is_gone() -> None:
    known, found = told()
    known.update(ServiceState((A, B)), is_new_mesh=False)
    known.update(ServiceState((), (ExitInfo("a", "it died", signal=9),)), is_new_mesh=True)
    assert found[-1] == ("b",)


async def test_what_has_not_returned_in_time_is_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    known, found = told()
    known.update(ServiceState((A,)), is_new_mesh=False)
    known.update(ServiceState(()), is_new_mesh=True)
    assert found[-1] == ("a",)
    first = trio.CancelScope()
    first.cancel()
    # A mesh that came and went again starts the time anew.
    await known.expire_stale(first)
    assert found[-1] == ("a",)
    await known.expire_stale(trio.CancelScope())
    assert found[-1] == ()
