"""Endpoints from DNS in a real mesh, with a real dnsmasq: answers, and what is lost of them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import trio
from echo.v1.echo_pb2 import EchoReply, EchoRequest

from meshtrio.rpc.server import Server
from meshtrio.transport.listener import tcp_listener
from tests.support.connection_pairs import CallbackServicer
from tests.support.dns_mesh import (
    NAME,
    ONE,
    THREE,
    TIMEOUT,
    TWO,
    dns_config,
    run_with_dns,
    serve_on,
)
from tests.support.dns_server import run_dns_server
from tests.support.in_process_mesh import run_mesh
from tests.support.logs import watch_log
from tests.support.ports import find_free_port

SRV_NAME = "_grpc._tcp.echo.internal"


async def test_changes_are_followed_within_the_ttl(short_dir: Path) -> None:
    async with (
        serve_on(ONE, TWO, THREE) as port,
        run_dns_server(short_dir, {NAME: [ONE, TWO]}, ttl=2) as dns,
        run_with_dns(dns_config(dns, f"dns:///{NAME}:{port}"), short_dir) as meshed,
    ):
        assert await meshed.call() in (ONE, TWO)
        before = meshed.hosts()
        assert before.keys() == {ONE, TWO}
        await dns.set_hosts({NAME: [TWO, THREE]})
        await meshed.wait_for(lambda: meshed.hosts().keys() == {TWO, THREE}, seconds=2 + 1)
        assert meshed.hosts()[TWO] == before[TWO], "the same endpoint, and connection"
        (exit_info,) = meshed.state().exit_infos
        assert exit_info.endpoint_id == before[ONE]
        assert "is no longer among the addresses of dns:///echo.internal" in exit_info.reason
        await meshed.wait_for_answer_from(THREE)


async def test_a_call_in_flight_finishes_on_a_removed_address(short_dir: Path) -> None:
    started, release, finished = trio.Event(), trio.Event(), trio.Event()

    async def echo(message: EchoRequest) -> EchoReply:
        started.set()
        await release.wait()
        return EchoReply(message="late")

    with tcp_listener(f"tcp:{ONE}:0") as listener:
        port = listener.getsockname()[1]
        async with (
            run_dns_server(short_dir, {NAME: [ONE]}) as dns,
            run_with_dns(dns_config(dns, f"dns:///{NAME}:{port}"), short_dir) as meshed,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(Server(CallbackServicer(Echo=echo)).serve, listener)

            async def call() -> None:
                assert await meshed.call() == "late"
                finished.set()

            nursery.start_soon(call)
            await started.wait()
            await dns.set_hosts({NAME: [TWO]})
            await meshed.wait_for(lambda: meshed.hosts().keys() == {TWO})
            release.set()
            with trio.fail_after(TIMEOUT):
                await finished.wait()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("loss", ["no_name", "empty", "killed", "stopped"])
async def test_what_is_known_stays_in_use(
    short_dir: Path, loss: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    # A name with a text record only exists, but has no addresses.
    options = (f"--txt-record={NAME},x",) if loss == "empty" else ()
    reason = {
        "no_name": "there is no such name (NXDOMAIN)",
        "empty": "the answer has no addresses",
        "killed": "no answer within 5 s",
        "stopped": "no answer within 5 s",
    }[loss]
    async with (
        serve_on(ONE, TWO) as port,
        run_dns_server(short_dir, {NAME: [ONE]}, *options) as dns,
        run_with_dns(dns_config(dns, f"dns:///{NAME}:{port}"), short_dir) as meshed,
    ):
        assert await meshed.call() == ONE
        known = meshed.state().endpoints
        text = f"s: looking up dns:///{NAME}:{port} failed: {reason}; keeping the 1 known endpoints"
        with watch_log(text) as failed:
            if loss == "killed":
                dns.kill()
            elif loss == "stopped":
                dns.send_signal(signal.SIGSTOP)
            else:
                await dns.set_hosts({})
            with trio.fail_after(TIMEOUT):
                await failed.wait()
        assert meshed.state().endpoints == known
        assert await meshed.call() == ONE
        with watch_log("is looked up again: 2 endpoints") as healed:
            if loss == "killed":
                await dns.restart()
            elif loss == "stopped":
                dns.send_signal(signal.SIGCONT)
            await dns.set_hosts({NAME: [ONE, TWO]})
            with trio.fail_after(TIMEOUT):
                await healed.wait()
        assert set(known) < set(meshed.state().endpoints)
        messages = [record.getMessage() for record in caplog.records]
        assert messages.count(text) == 1


async def test_callers_wait_for_the_first_answer(short_dir: Path) -> None:
    async with (
        serve_on(ONE) as port,
        run_dns_server(short_dir, {}) as dns,
        run_with_dns(dns_config(dns, f"dns:///{NAME}:{port}"), short_dir) as meshed,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(meshed.call)
        await meshed.wait_for(lambda: meshed.state().exit_infos)
        (exit_info,) = meshed.state().exit_infos
        assert exit_info.reason == f"dns:///{NAME}:{port}: there is no such name (NXDOMAIN)"
        assert not meshed.state().unmanaged
        await dns.set_hosts({NAME: [ONE]})
    assert meshed.hosts().keys() == {ONE}


async def test_srv_records_spill_over_and_back(short_dir: Path) -> None:
    hosts = {"a.internal": [ONE], "b.internal": [TWO]}
    first, second = find_free_port(), find_free_port()

    def srv(number: int, host: str, port: int, priority: int, weight: int) -> str:
        return f"--srv-host={SRV_NAME},{host}.internal,{port},{priority},{weight}"

    options = (srv(1, "a", first, 10, 5), srv(2, "b", second, 20, 0))
    async with (
        serve_on(TWO, port=second),
        run_dns_server(short_dir, hosts, *options) as dns,
        run_with_dns(dns_config(dns, f"dns+srv:///{SRV_NAME}", weight=3), short_dir) as meshed,
    ):
        async with serve_on(ONE, port=first):
            await meshed.wait_for_answer_from(ONE)
            found = {e.address: (e.priority, e.weight) for e in meshed.state().endpoints}
            assert found == {f"tcp:{ONE}:{first}": (1, 15), f"tcp:{TWO}:{second}": (2, 3)}
            assert [await meshed.call() for _ in range(10)] == [ONE] * 10
        await meshed.wait_for_answer_from(TWO)
        async with serve_on(ONE, port=first):
            await meshed.wait_for_answer_from(ONE)
            # The second one is better now; both are the endpoints that they were.
            before = meshed.hosts()
            await dns.restart(srv(1, "a", first, 30, 5), srv(2, "b", second, 20, 0))
            await meshed.wait_for_answer_from(TWO)
            assert meshed.hosts() == before


async def test_a_name_with_many_addresses_is_asked_for_by_tcp(short_dir: Path) -> None:
    hosts = [f"10.1.{number // 250}.{number % 250 + 1}" for number in range(400)]
    text = "has 144 addresses more than the 256 that are used"
    async with run_dns_server(short_dir, {NAME: hosts}) as dns:
        with watch_log(text) as logged:
            async with run_mesh(dns_config(dns, f"dns:///{NAME}:1"), short_dir) as running:
                with trio.fail_after(TIMEOUT):
                    await logged.wait()
                assert len(running.mesh._registry.resolve("s").endpoints) == 256
