"""Endpoints from DNS in a real mesh, with a real dnsmasq and servers on loopback addresses."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from echo.v1.echo_grpc import EchoServiceStub

from meshtrio import mesh
from meshtrio.client.channel import Channel, connect_to
from meshtrio.config import MeshConfig, load
from meshtrio.discovery.dns.schedule import MAX_TTL
from meshtrio.discovery.endpoint import ServiceState
from meshtrio.rpc.server import Server
from meshtrio.transport.listener import tcp_listener
from tests.support.connection_pairs import echo_request
from tests.support.dns_server import DnsServer, run_dns_server
from tests.support.in_process_mesh import RecordedMesh, run_mesh
from tests.support.logs import watch_log
from tests.support.mesh_processes import service_table
from tests.support.ports import find_free_port
from tests.support.servers import call_echo, servicer_named

NAME = "echo.internal"
SRV_NAME = "_grpc._tcp.echo.internal"
ONE, TWO, THREE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
_TIMEOUT = 60


@asynccontextmanager
async def serve_on(*hosts: str, port: int | None = None) -> AsyncIterator[int]:
    """Serve on one port of several loopback addresses; each answers with its address."""
    port = port or find_free_port()
    async with trio.open_nursery() as nursery:
        for host in hosts:
            nursery.start_soon(_serve, host, port)
            # Connections to a socket that listens wait for the server.
        for host in hosts:
            (await _connect_when_listening(host, port)).close()
        yield port
        nursery.cancel_scope.cancel()


async def _serve(host: str, port: int) -> None:
    with tcp_listener(f"tcp:{host}:{port}") as listener:
        await Server(servicer_named(host)).serve(listener)


async def _connect_when_listening(host: str, port: int) -> trio.socket.SocketType:
    with trio.fail_after(_TIMEOUT):
        while True:
            sock = trio.socket.socket()
            try:
                await sock.connect((host, port))
                return sock
            except OSError:
                sock.close()
                await trio.sleep(0.01)


def make_config(dns: DnsServer, *endpoints: str, **settings: object) -> str:
    return f'[mesh.dns]\nservers = ["{dns.address}"]\n' + service_table(
        "s", endpoints=list(endpoints), **settings
    )


class MeshWithDns:
    """A mesh whose service "s" is looked up."""

    def __init__(self, running: RecordedMesh, channel: Channel) -> None:
        self.running = running
        self.channel = channel

    def state(self) -> ServiceState:
        return self.running.mesh._registry.resolve("s")

    def hosts(self) -> dict[str, str]:
        """The ids of the endpoints by the host of the address."""
        return {each.address.split(":")[1]: each.id for each in self.state().endpoints}

    async def wait_for(self, condition: Callable[[], object], timeout: float = _TIMEOUT) -> None:
        registry = self.running.mesh._registry
        with trio.fail_after(timeout):
            while not condition():
                await registry.wait_changed(registry.revision)

    async def call(self) -> str:
        with trio.fail_after(_TIMEOUT):
            return await call_echo(self.channel)

    async def wait_for_answer_from(self, host: str) -> None:
        with trio.fail_after(_TIMEOUT):
            while await call_echo(self.channel) != host:
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def run_with_dns(config: str | MeshConfig, folder: Path) -> AsyncIterator[MeshWithDns]:
    async with run_mesh(config, folder) as running, running.mesh.connect("s") as channel:
        yield MeshWithDns(running, channel)


async def test_changes_are_followed_within_the_ttl(short_dir: Path) -> None:
    async with (
        serve_on(ONE, TWO, THREE) as port,
        run_dns_server(short_dir, {NAME: [ONE, TWO]}, ttl=2) as dns,
        run_with_dns(make_config(dns, f"dns:///{NAME}:{port}"), short_dir) as meshed,
    ):
        assert await meshed.call() in (ONE, TWO)
        before = meshed.hosts()
        assert before.keys() == {ONE, TWO}
        async with meshed.channel.stub(EchoServiceStub).Chat() as call:
            await dns.set_hosts({NAME: [TWO, THREE]})
            await meshed.wait_for(lambda: meshed.hosts().keys() == {TWO, THREE}, timeout=2 + 1)
            assert meshed.hosts()[TWO] == before[TWO], "the same endpoint, and connection"
            (exit_info,) = meshed.state().exit_infos
            assert exit_info.endpoint_id == before[ONE]
            assert "is no longer among the addresses of dns:///echo.internal" in exit_info.reason
            await call.send_message(echo_request("x"))  # It may be one of the removed endpoint.
        await meshed.wait_for_answer_from(THREE)


async def test_a_call_in_flight_finishes_on_a_removed_address(short_dir: Path) -> None:
    release = trio.Event()
    from echo.v1.echo_pb2 import EchoReply, EchoRequest

    from tests.support.connection_pairs import CallbackServicer

    started = trio.Event()

    async def echo(message: EchoRequest) -> EchoReply:
        started.set()
        await release.wait()
        return EchoReply(message="late")

    with tcp_listener(f"tcp:{ONE}:0") as listener:
        port = listener.getsockname()[1]
        async with (
            run_dns_server(short_dir, {NAME: [ONE]}) as dns,
            run_with_dns(make_config(dns, f"dns:///{NAME}:{port}"), short_dir) as meshed,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(Server(CallbackServicer(Echo=echo)).serve, listener)
            answers = []

            async def call() -> None:
                answers.append(await meshed.call())

            nursery.start_soon(call)
            await started.wait()
            await dns.set_hosts({NAME: [TWO]})
            await meshed.wait_for(lambda: meshed.hosts().keys() == {TWO})
            release.set()
            with trio.fail_after(_TIMEOUT):
                while not answers:
                    await trio.testing.wait_all_tasks_blocked()
            assert answers == ["late"]
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
        run_with_dns(make_config(dns, f"dns:///{NAME}:{port}"), short_dir) as meshed,
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
            with trio.fail_after(_TIMEOUT):
                await failed.wait()
        assert meshed.state().endpoints == known
        assert await meshed.call() == ONE
        with watch_log("is looked up again: 2 endpoints") as healed:
            if loss == "killed":
                await dns.restart()
            elif loss == "stopped":
                dns.send_signal(signal.SIGCONT)
            await dns.set_hosts({NAME: [ONE, TWO]})
            with trio.fail_after(_TIMEOUT):
                await healed.wait()
        assert set(known) < set(meshed.state().endpoints)
        messages = [record.getMessage() for record in caplog.records]
        assert messages.count(text) == 1


async def test_callers_wait_for_the_first_answer(short_dir: Path) -> None:
    async with (
        serve_on(ONE) as port,
        run_dns_server(short_dir, {}) as dns,
        run_with_dns(make_config(dns, f"dns:///{NAME}:{port}"), short_dir) as meshed,
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
        run_with_dns(make_config(dns, f"dns+srv:///{SRV_NAME}", weight=3), short_dir) as meshed,
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


async def test_a_failed_connection_makes_the_lookup_earlier(short_dir: Path) -> None:
    # The TTL is above the maximum, so that only an early lookup finds the new address.
    async with run_dns_server(short_dir, {NAME: [ONE]}, ttl=3600) as dns:
        port = find_free_port()
        config = make_config(dns, f"dns:///{NAME}:{port}")
        async with run_with_dns(config, short_dir) as meshed, serve_on(TWO, port=port):
            start = trio.current_time()
            async with serve_on(ONE, port=port):
                assert await meshed.call() == ONE
                await dns.set_hosts({NAME: [TWO]})
            await meshed.wait_for(lambda: meshed.hosts().keys() == {TWO})
            assert await meshed.call() == TWO
            assert trio.current_time() - start < MAX_TTL / 2


async def test_clients_of_other_processes_report_failed_connections(short_dir: Path) -> None:
    async with run_dns_server(short_dir, {NAME: [ONE]}, ttl=3600) as dns:
        port = find_free_port()
        config = make_config(dns, f"dns:///{NAME}:{port}")
        async with (
            run_mesh(config, short_dir) as running,
            mesh.connect("s", mesh_socket=running.mesh.socket) as channel,
            serve_on(TWO, port=port),
        ):
            start = trio.current_time()
            async with serve_on(ONE, port=port):
                assert await call_echo(channel) == ONE
                await dns.set_hosts({NAME: [TWO]})
            with trio.fail_after(MAX_TTL / 2):
                assert await call_echo(channel) == TWO
            assert trio.current_time() - start < MAX_TTL / 2


async def test_a_reload_starts_and_ends_lookups(short_dir: Path) -> None:
    async with (
        serve_on(ONE, TWO) as port,
        run_dns_server(short_dir, {NAME: [ONE], "other.internal": [TWO]}) as dns,
        run_with_dns(make_config(dns), short_dir) as meshed,
    ):

        async def reload(*endpoints: str) -> None:
            (short_dir / "mesh.toml").write_text(make_config(dns, *endpoints))
            await meshed.running.mesh.reload(
                load(short_dir / "mesh.toml", runtime_dir=short_dir / "run")
            )

        await reload(f"dns:///{NAME}:{port}")
        assert await meshed.call() == ONE
        (first,) = meshed.state().endpoints
        await reload(f"dns:///{NAME}:{port}", f"dns:///other.internal:{port}")
        await meshed.wait_for(lambda: len(meshed.state().endpoints) == 2)
        assert first in meshed.state().endpoints
        await reload(f"dns:///other.internal:{port}")
        assert meshed.hosts().keys() == {TWO}
        assert meshed.state().exit_infos[-1].reason == (
            f"tcp:{ONE}:{port} of dns:///{NAME}:{port} was removed from the config"
        )
        count = dns.count_queries(NAME)
        await dns.wait_for_queries(dns.count_queries("other.internal") + 2, "other.internal")
        assert dns.count_queries(NAME) == count
        await reload()
        assert meshed.hosts() == {}


async def test_a_channel_to_a_name_without_a_mesh(short_dir: Path) -> None:
    async with (
        serve_on(ONE, TWO) as port,
        run_dns_server(short_dir, {NAME: [ONE]}) as dns,
        connect_to(f"dns://{dns.address}/{NAME}:{port}") as channel,
    ):
        with trio.fail_after(_TIMEOUT):
            assert await call_echo(channel) == ONE
            await dns.set_hosts({NAME: [TWO]})
            while await call_echo(channel) != TWO:
                await trio.lowlevel.checkpoint()
            assert [each.address for each in channel.endpoints] == [f"tcp:{TWO}:{port}"]


async def test_a_name_with_many_addresses_is_asked_for_by_tcp(short_dir: Path) -> None:
    hosts = [f"10.1.{number // 250}.{number % 250 + 1}" for number in range(400)]
    text = "has 144 addresses more than the 256 that are used"
    async with run_dns_server(short_dir, {NAME: hosts}) as dns:
        with watch_log(text) as logged:
            async with run_mesh(make_config(dns, f"dns:///{NAME}:1"), short_dir) as running:
                with trio.fail_after(_TIMEOUT):
                    await logged.wait()
                assert len(running.mesh._registry.resolve("s").endpoints) == 256
