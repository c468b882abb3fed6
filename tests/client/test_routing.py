"""Where a channel sends its calls: priorities, bounds, ejections, sticky keys, and not waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import purerpc
import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.client.channel import Channel, connect_to, open_channel
from meshtrio.discovery.endpoint import LOCAL_PRIORITY, REMOTE_PRIORITY, ExitInfo, ServiceState
from meshtrio.grpc.service_config import ServiceConfig, parse_service_config
from meshtrio.http2.limits import Limits
from meshtrio.messages import health
from meshtrio.rpc.server import Server
from meshtrio.services.health import HealthServicer
from meshtrio.transport.listener import unix_listener
from tests.support.connection_pairs import CallbackServicer, echo_request
from tests.support.failing_servicers import OUTLIER_DETECTION_CONFIG
from tests.support.servers import (
    FakeResolver,
    call_echo,
    serve_on_socket,
    servicer_named,
    standard_server,
    unix_endpoint,
)


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)


async def count_answers(channel: Channel, count: int, **options: Any) -> Counter[str]:
    stub = channel.stub(EchoServiceStub)
    found: Counter[str] = Counter()
    for _ in range(count):
        found[(await stub.Echo(echo_request("?"), **options)).message] += 1
    return found


async def call_until_answered_by(channel: Channel, name: str) -> None:
    while await call_echo(channel) != name:  # noqa: ASYNC110 - calls are how one learns
        await trio.sleep(0.01)


async def test_local_ones_are_called_first_and_others_when_there_are_none(short_dir: Path) -> None:
    a, b, feed = short_dir / "a", short_dir / "b", FakeResolver()
    near = unix_endpoint(a).replace(priority=LOCAL_PRIORITY)
    far = unix_endpoint(b).replace(priority=REMOTE_PRIORITY)
    async with serve_on_socket(b), open_channel("x", feed) as channel:
        feed.set(far, near)
        with trio.fail_after(30):
            assert await count_answers(channel, 3) == {"b": 3}
            async with serve_on_socket(a):
                await call_until_answered_by(channel, "a")
                assert await count_answers(channel, 5) == {"a": 5}
            await settle()
            assert await count_answers(channel, 5) == {"b": 5}


async def test_calls_that_local_ones_may_not_take_spill_over_and_return(short_dir: Path) -> None:
    a, b, feed = short_dir / "a", short_dir / "b", FakeResolver()
    near, far = unix_endpoint(a), unix_endpoint(b).replace(priority=REMOTE_PRIORITY)
    config = parse_service_config({"meshtrio": {"maxInFlightPerEndpoint": 2}})
    hanging_server = Server(CallbackServicer(Echo=answer_as("a")))
    async with (
        serve_on_socket(a, hanging_server),
        serve_on_socket(b),
        open_channel("x", feed, service_config=config) as channel,
        trio.open_nursery() as nursery,
    ):
        feed.set(far, near)
        with trio.fail_after(30):
            await call_until_answered_by(channel, "a")
            await start_hanging_calls(channel, nursery, 2)
            assert await count_answers(channel, 3) == {"b": 3}
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await call_until_answered_by(channel, "a")


def answer_as(name: str) -> Any:
    async def answer(message: EchoRequest) -> EchoReply:
        if message.message == "hang":
            await trio.sleep_forever()
        return EchoReply(message=name)

    return answer


async def test_another_attempt_goes_to_others_if_all_local_ones_have_failed(
    short_dir: Path,
) -> None:
    a, b, feed = short_dir / "a", short_dir / "b", FakeResolver()
    near, far = unix_endpoint(a), unix_endpoint(b).replace(priority=REMOTE_PRIORITY)
    policy = {
        "maxAttempts": 2,
        "initialBackoff": "0.001s",
        "maxBackoff": "0.001s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["UNAVAILABLE"],
    }
    config = parse_service_config({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
    calls: list[str] = []

    async def fail(message: EchoRequest) -> EchoReply:
        calls.append(message.message)
        raise purerpc.UnavailableError("not now")

    async with (
        serve_on_socket(a, Server(CallbackServicer(Echo=fail))),
        serve_on_socket(b),
        open_channel("x", feed, service_config=config) as channel,
    ):
        feed.set(near)
        await settle()
        feed.set(far, near)
        await settle()
        with trio.fail_after(30):
            assert await call_echo(channel) == "b"
        assert len(calls) == 1


async def test_a_new_config_is_gone_by_at_once(short_dir: Path) -> None:
    feed = FakeResolver()
    async with serve_on_socket(short_dir / "a"), open_channel("x", feed) as channel:
        feed.set(unix_endpoint(short_dir / "a"))
        await settle()
        assert channel.service_config == ServiceConfig()
        text = '{"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": [{}]}]}'
        assert feed._update is not None
        feed._update(ServiceState((unix_endpoint(short_dir / "a"),), service_config=text))
        assert channel.service_config == parse_service_config(
            {"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [{"name": [{}]}]}
        )
        # One that cannot be read changes nothing.
        feed._update(ServiceState((unix_endpoint(short_dir / "a"),), service_config="{"))
        assert channel.service_config.load_balancing.policy.value == "round_robin"
        assert await call_echo(channel) == "a"


async def hanging(message: EchoRequest) -> EchoReply:
    await trio.sleep_forever()
    raise AssertionError


async def start_hanging_calls(channel: Channel, nursery: trio.Nursery, count: int) -> None:
    for _ in range(count):
        nursery.start_soon(channel.stub(EchoServiceStub).Echo, echo_request("hang"))
    await settle()


@pytest.mark.parametrize("bound", ["maxInFlight", "maxInFlightPerEndpoint"])
async def test_calls_in_flight_are_bounded(bound: str, short_dir: Path) -> None:
    feed = FakeResolver()
    config = parse_service_config({"meshtrio": {bound: 3}})
    async with (
        serve_on_socket(short_dir / "a"),
        open_channel("x", feed, service_config=config) as channel,
    ):
        feed.set(unix_endpoint(short_dir / "a"))
        await settle()
        for _ in range(2):
            async with trio.open_nursery() as nursery:
                await start_hanging_calls(channel, nursery, 3)
                with pytest.raises(purerpc.ResourceExhaustedError, match="3 calls"):
                    await call_echo(channel)
                nursery.cancel_scope.cancel()
            assert await call_echo(channel) == "a"


async def test_calls_that_wait_are_bounded() -> None:
    config = parse_service_config({"meshtrio": {"maxPending": 2}})
    async with (
        open_channel("x", FakeResolver(), service_config=config) as channel,
        trio.open_nursery() as nursery,
    ):
        await start_hanging_calls(channel, nursery, 2)
        with pytest.raises(
            purerpc.ResourceExhaustedError, match="the limit of 2 pending calls is reached"
        ):
            await call_echo(channel)
        nursery.cancel_scope.cancel()


async def test_a_full_endpoint_leaves_calls_to_the_others(short_dir: Path) -> None:
    feed = FakeResolver()
    config = parse_service_config({"meshtrio": {"maxInFlightPerEndpoint": 2}})
    async with (
        serve_on_socket(short_dir / "a"),
        serve_on_socket(short_dir / "b"),
        open_channel("x", feed, service_config=config) as channel,
        trio.open_nursery() as nursery,
    ):
        feed.set(unix_endpoint(short_dir / "a"), unix_endpoint(short_dir / "b"))
        await settle()
        await start_hanging_calls(channel, nursery, 4)
        with pytest.raises(
            purerpc.ResourceExhaustedError, match="every endpoint has reached its limit of 2 calls"
        ):
            await call_echo(channel)
        nursery.cancel_scope.cancel()


async def test_a_full_endpoint_gets_no_call_that_waits_for_a_stream_elsewhere(
    short_dir: Path,
) -> None:
    feed = FakeResolver()
    one_stream = Server(servicer_named("a"), limits=Limits(max_concurrent_streams=1))
    config = parse_service_config({"meshtrio": {"maxInFlightPerEndpoint": 2}})
    async with (
        serve_on_socket(short_dir / "a", one_stream),
        serve_on_socket(short_dir / "b"),
        open_channel("x", feed, service_config=config) as channel,
        trio.open_nursery() as waiting,
        trio.open_nursery() as hanging,
    ):
        a, b = unix_endpoint(short_dir / "a"), unix_endpoint(short_dir / "b")
        feed.set(b)
        await settle()
        await start_hanging_calls(channel, hanging, 2)
        feed.set(a, b)
        while len(channel.picker.ready) < 2:
            await channel.wait_for_state_change()
        await start_hanging_calls(channel, hanging, 1)
        answers: list[str] = []

        async def call() -> None:
            answers.append(await call_echo(channel))

        waiting.start_soon(call)
        await settle()
        assert answers == []
        hanging.cancel_scope.cancel()
    assert len(answers) == 1


async def test_a_call_that_fails_leaves_the_stream_it_waited_for_to_the_next(
    short_dir: Path,
) -> None:
    two_streams = Server(servicer_named("a"), limits=Limits(max_concurrent_streams=2))
    address = f"unix:{short_dir / 'a'}"
    config = parse_service_config({"meshtrio": {"maxInFlight": 1}})

    async def fail() -> None:
        with pytest.raises(purerpc.ResourceExhaustedError, match="1 calls in flight"):
            await call_echo(bounded)

    async def succeed() -> None:
        assert await call_echo(other) == "a"
        hanging.cancel_scope.cancel()

    with trio.fail_after(30):
        async with (
            serve_on_socket(short_dir / "a", two_streams),
            connect_to(address, service_config=config) as bounded,
            connect_to(address) as other,
            trio.open_nursery() as hanging,
        ):
            await start_hanging_calls(bounded, hanging, 1)
            async with trio.open_nursery() as waiting, trio.open_nursery() as ending:
                await start_hanging_calls(other, ending, 1)
                for each in (fail, succeed):
                    waiting.start_soon(each)
                    await settle()
                ending.cancel_scope.cancel()


async def test_a_request_that_cannot_be_serialized_leaves_its_stream_to_the_next(
    short_dir: Path,
) -> None:
    class Broken:
        def SerializeToString(self) -> bytes:
            raise ValueError("no message")

    one_stream = Server(servicer_named("a"), limits=Limits(max_concurrent_streams=1))

    async def fail() -> None:
        with pytest.raises(ValueError, match="no message"):
            await channel.stub(EchoServiceStub).Echo(Broken())

    async def succeed() -> None:
        assert await call_echo(channel) == "a"

    with trio.fail_after(30):
        async with (
            serve_on_socket(short_dir / "a", one_stream),
            connect_to(f"unix:{short_dir / 'a'}") as channel,
            trio.open_nursery() as waiting,
            trio.open_nursery() as ending,
        ):
            await start_hanging_calls(channel, ending, 1)
            for each in (fail, succeed):
                waiting.start_soon(each)
                await settle()
            ending.cancel_scope.cancel()


async def test_an_endpoint_that_fails_is_ejected_and_comes_back(short_dir: Path) -> None:
    failing = True

    async def flaky(message: EchoRequest) -> EchoReply:
        if failing:
            raise purerpc.InternalError("broken")
        return EchoReply(message="a")

    feed = FakeResolver()
    async with (
        serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=flaky))),
        serve_on_socket(short_dir / "b"),
        open_channel(
            "x", feed, service_config=parse_service_config(OUTLIER_DETECTION_CONFIG)
        ) as channel,
    ):
        feed.set(unix_endpoint(short_dir / "a"), unix_endpoint(short_dir / "b"))
        await settle()
        failed = 0
        for _ in range(20):
            try:
                await call_echo(channel)
            except purerpc.InternalError:
                failed += 1
        assert failed == 3
        failing = False
        with trio.fail_after(30):
            await call_until_answered_by(channel, "a")


async def test_an_endpoint_that_only_hangs_is_ejected_too(short_dir: Path) -> None:
    feed = FakeResolver()
    async with (
        serve_on_socket(short_dir / "a", Server(CallbackServicer(Echo=hanging))),
        serve_on_socket(short_dir / "b"),
        open_channel(
            "x", feed, service_config=parse_service_config(OUTLIER_DETECTION_CONFIG)
        ) as channel,
    ):
        feed.set(unix_endpoint(short_dir / "a"), unix_endpoint(short_dir / "b"))
        await settle()
        late = 0
        for _ in range(12):
            with trio.move_on_after(0.03) as scope:
                await call_echo(channel)
            late += scope.cancelled_caught
        assert late == 3


RING = {"loadBalancingConfig": [{"ring_hash_experimental": {"requestHashHeader": "user"}}]}


async def test_calls_of_one_key_go_to_one_endpoint(short_dir: Path) -> None:
    feed = FakeResolver()
    paths = [short_dir / name for name in "abc"]
    async with (
        serve_on_socket(paths[0]),
        serve_on_socket(paths[1]),
        serve_on_socket(paths[2]),
        open_channel("x", feed, service_config=parse_service_config(RING)) as channel,
    ):
        feed.set(*map(unix_endpoint, paths))
        await settle()
        owners = {}
        for user in map(str, range(20)):
            found = await count_answers(channel, 3, metadata=[("user", user)])
            assert len(found) == 1
            owners[user] = next(iter(found))
        assert set(owners.values()) == {"a", "b", "c"}
        feed.set(unix_endpoint(paths[0]), unix_endpoint(paths[1]))
        for user, owner in owners.items():
            found = await count_answers(channel, 1, metadata=[("user", user)])
            if owner != "c":
                assert found == {owner: 1}
        assert len(await count_answers(channel, 30)) == 2


async def test_the_key_may_be_the_channels_own(short_dir: Path) -> None:
    feed = FakeResolver()
    paths = [short_dir / name for name in "ab"]
    async with (
        serve_on_socket(paths[0]),
        serve_on_socket(paths[1]),
        open_channel(
            "x", feed, service_config=parse_service_config(RING), metadata=[("user", "7")]
        ) as channel,
    ):
        feed.set(*map(unix_endpoint, paths))
        await settle()
        assert len(await count_answers(channel, 20)) == 1


# -- not waiting -----------------------------------------------------------------------------


async def test_a_call_need_not_wait(short_dir: Path) -> None:
    feed = FakeResolver()
    async with open_channel("plugin.x", feed) as channel:
        stub = channel.stub(EchoServiceStub)
        with (
            trio.fail_after(30),
            pytest.raises(purerpc.UnavailableError, match="is unavailable: no endpoints"),
        ):
            await stub.Echo(echo_request("?"), wait_for_ready=False)
        feed.set(unix_endpoint(short_dir / "a"))
        with trio.fail_after(30), pytest.raises(purerpc.UnavailableError, match="No such file"):
            await stub.Echo(echo_request("?"), wait_for_ready=False)
        feed.set(departures=(ExitInfo("a", "instance 0 was killed by SIGKILL", signal=9),))
        with trio.fail_after(30), pytest.raises(purerpc.UnavailableError, match="SIGKILL"):
            await stub.Echo(echo_request("?"), wait_for_ready=False)


async def test_one_that_does_not_wait_gives_the_first_connection_its_time(short_dir: Path) -> None:
    async with serve_on_socket(short_dir / "a"), connect_to(f"unix:{short_dir / 'a'}") as channel:
        assert await count_answers(channel, 1, wait_for_ready=False) == {"a": 1}


@pytest.mark.parametrize("more", [{}, {"hedgingPolicy": {"maxAttempts": 2}}], ids=["", "hedged"])
async def test_a_service_can_say_that_its_callers_do_not_wait(more: dict[str, Any]) -> None:
    config = parse_service_config({"methodConfig": [{"name": [{}], "waitForReady": False, **more}]})
    async with open_channel("x", FakeResolver(), service_config=config) as channel:
        stub = channel.stub(EchoServiceStub)
        with trio.fail_after(30), pytest.raises(purerpc.UnavailableError):
            await stub.Echo(echo_request("?"))
        with trio.move_on_after(0.05) as scope:
            await stub.Echo(echo_request("?"), wait_for_ready=True)
        assert scope.cancelled_caught


# -- shared links ----------------------------------------------------------------------------


async def test_channels_of_one_process_share_a_connection(short_dir: Path) -> None:
    server = Server(servicer_named("a"))
    address = f"unix:{short_dir / 'a'}"
    async with serve_on_socket(short_dir / "a", server), connect_to(address) as first:
        assert await call_echo(first) == "a"
        async with connect_to(address) as second, trio.open_nursery() as nursery:
            assert await call_echo(second) == "a"
            assert len(server.connections) == 1
            await start_hanging_calls(first, nursery, 1)
            nursery.cancel_scope.cancel()
        assert await call_echo(first) == "a"
        assert len(server.connections) == 1
    await settle()
    assert not server.connections


async def test_a_channel_that_closes_ends_its_own_calls_only(short_dir: Path) -> None:
    from meshtrio.errors import ConnectionLostError

    address = f"unix:{short_dir / 'a'}"
    ended: list[str] = []

    async def call(channel: Channel, name: str) -> None:
        with pytest.raises(ConnectionLostError, match="is closed"):
            await channel.stub(EchoServiceStub).Echo(echo_request("hang"))
        ended.append(name)

    async with serve_on_socket(short_dir / "a"), connect_to(address) as first:
        async with trio.open_nursery() as nursery:
            async with connect_to(address) as second:
                nursery.start_soon(call, first, "first")
                nursery.start_soon(call, second, "second")
                await settle()
            await settle()
            assert ended == ["second"]
            nursery.cancel_scope.cancel()


async def test_links_speak_in_one_manner(short_dir: Path) -> None:
    from meshtrio.rpc.timeouts import Timeouts

    server = Server(servicer_named("a"))
    address = f"unix:{short_dir / 'a'}"
    async with (
        serve_on_socket(short_dir / "a", server),
        connect_to(address) as first,
        connect_to(address, timeouts=Timeouts(keepalive_time=60)) as second,
    ):
        assert [await call_echo(first), await call_echo(second)] == ["a", "a"]
        assert len(server.connections) == 2


async def test_one_feed_serves_all_channels_to_a_service(short_dir: Path) -> None:
    runs = 0

    async def feed(update: Any) -> None:
        nonlocal runs
        runs += 1
        update(ServiceState((unix_endpoint(short_dir / "a"),)))
        await trio.sleep_forever()

    async with serve_on_socket(short_dir / "a"):
        async with open_channel("x", feed, resolver_key="k") as first:
            async with open_channel("x", feed, resolver_key="k") as second:
                assert [await call_echo(first), await call_echo(second)] == ["a", "a"]
            assert await call_echo(first) == "a"
        assert runs == 1
        async with open_channel("x", feed, resolver_key="k") as third:
            assert await call_echo(third) == "a"
        assert runs == 2


# -- health ----------------------------------------------------------------------------------

WATCHED = parse_service_config({"healthCheckConfig": {"serviceName": "echo.v1.EchoService"}})


async def test_an_endpoint_that_says_it_does_not_serve_gets_no_calls(short_dir: Path) -> None:
    feed = FakeResolver()
    server, health = standard_server(servicer_named("a"))
    async with (
        serve_on_socket(short_dir / "a", server),
        serve_on_socket(short_dir / "b"),
        open_channel("x", feed, service_config=WATCHED) as channel,
    ):
        feed.set(unix_endpoint(short_dir / "a"), unix_endpoint(short_dir / "b"))
        with trio.fail_after(30):
            # "b" has no health service, and counts as healthy.
            await call_until_answered_by(channel, "a")
            await call_until_answered_by(channel, "b")
            health.shutdown_started.set()
            await settle()
            assert await count_answers(channel, 10) == {"b": 10}


async def test_one_whose_health_is_not_known_yet_is_waited_for(short_dir: Path) -> None:
    server, _ = standard_server(servicer_named("a"))
    with unix_listener(short_dir / "a") as listener:
        async with connect_to(f"unix:{short_dir / 'a'}", service_config=WATCHED) as channel:
            async with trio.open_nursery() as nursery:
                with trio.move_on_after(0.05) as scope:
                    await call_echo(channel)
                assert scope.cancelled_caught
                await nursery.start(server.serve, listener)
                with trio.fail_after(30):
                    assert await call_echo(channel) == "a"
                nursery.cancel_scope.cancel()


async def test_one_with_too_many_calls_for_a_watch_is_as_healthy_as_it_was(
    short_dir: Path,
) -> None:
    watches = 0
    refused = trio.Event()

    class Full(HealthServicer):
        async def Watch(self, request: Any) -> AsyncIterator[Any]:
            nonlocal watches
            watches += 1
            if watches == 1:
                yield health.HealthCheckResponse(status=health.HealthCheckResponse.SERVING)
            if watches > 2:
                refused.set()
            raise purerpc.ResourceExhaustedError("too many calls")

    server = Server(servicer_named("a"), Full(["echo.v1.EchoService"]))
    async with (
        serve_on_socket(short_dir / "a", server),
        connect_to(f"unix:{short_dir / 'a'}", service_config=WATCHED) as channel,
    ):
        with trio.fail_after(30):
            assert await call_echo(channel) == "a"
            await refused.wait()
            assert await call_echo(channel) == "a"


async def test_an_endpoint_is_healthy_again_once_it_has_reconnected(short_dir: Path) -> None:
    """Without a health service, whose watch backs off while the connection is replaced."""
    async with (
        serve_on_socket(short_dir / "a"),
        connect_to(f"unix:{short_dir / 'a'}", service_config=WATCHED) as channel,
    ):
        with trio.fail_after(30):
            for _ in range(3):
                assert await call_echo(channel) == "a"
                (endpoint,) = channel.picker.endpoints
                assert endpoint.subchannel.connection is not None
                endpoint.subchannel.connection.start_draining()
                while endpoint.is_healthy:
                    await channel.wait_for_state_change()


async def test_the_watch_of_a_connection_that_drains_is_no_load_of_the_next(
    short_dir: Path,
) -> None:
    server, _ = standard_server(servicer_named("a"))
    config = parse_service_config(
        {"healthCheckConfig": {"serviceName": ""}, "meshtrio": {"maxInFlightPerEndpoint": 1}}
    )
    async with (
        serve_on_socket(short_dir / "a", server),
        connect_to(f"unix:{short_dir / 'a'}", service_config=config) as channel,
        trio.open_nursery() as nursery,
    ):
        with trio.fail_after(30):
            assert await call_echo(channel) == "a"
            connection = channel.picker.endpoints[0].subchannel.connection
            assert connection is not None
            connection.start_draining()
            assert await call_echo(channel) == "a"
            await start_hanging_calls(channel, nursery, 1)
            with pytest.raises(purerpc.ResourceExhaustedError, match="limit of 1 calls"):
                await call_echo(channel)
        assert connection.closed
        nursery.cancel_scope.cancel()


async def test_what_leaves_or_drains_is_never_picked(short_dir: Path) -> None:
    """Whatever order endpoints come, go and drain in."""
    rng, feed = Random(7), FakeResolver()
    paths = [short_dir / name for name in "abcd"]
    async with AsyncExitStack() as stack:
        servers = {
            path.name: await stack.enter_async_context(serve_on_socket(path)) for path in paths
        }
        channel = await stack.enter_async_context(open_channel("x", feed))
        listed: set[Path] = set()
        for step in range(200):
            listed ^= {rng.choice(paths)}
            feed.set(*(unix_endpoint(p).replace(id=f"{p.name}{step // 20}") for p in listed))
            if step % 10 == 0:
                for connection in list(servers[rng.choice("abcd")].connections):
                    connection._engine.start_graceful_shutdown()
                    connection.flush()
            if rng.random() < 0.3:
                await settle()
            for _ in range(5):
                target = channel.picker.try_pick()
                if target is not None:
                    assert target.connection.is_usable
                    assert target.channel_endpoint.endpoint in channel.endpoints
                    assert not target.channel_endpoint.removed.is_set()


async def test_a_feed_may_use_a_channel_itself(short_dir: Path) -> None:
    """As that of a mesh in another process does; it must not keep the shared links alive."""
    server = Server(servicer_named("a"))
    address = f"unix:{short_dir / 'a'}"

    async def feed(update: Any) -> None:
        async with connect_to(address) as behind:
            assert await call_echo(behind) == "a"
            update(ServiceState((unix_endpoint(short_dir / "a"),)))
            await trio.sleep_forever()

    async with serve_on_socket(short_dir / "a", server):
        with trio.fail_after(30):
            for _ in range(3):
                async with (
                    open_channel("x", feed, resolver_key="k") as first,
                    open_channel("x", feed, resolver_key="k") as second,
                ):
                    assert [await call_echo(first), await call_echo(second)] == ["a", "a"]
                await settle()
                assert not server.connections


async def test_the_first_call_goes_by_the_config_that_is_known(short_dir: Path) -> None:
    text = '{"methodConfig": [{"name": [{}], "waitForReady": false}]}'
    async with open_channel(
        "x", FakeResolver(), initial_state=ServiceState(service_config=text)
    ) as channel:
        with trio.fail_after(30), pytest.raises(purerpc.UnavailableError):
            await call_echo(channel)
