"""What starts, ends and hastens lookups: connections, configs and channels."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trio

from meshtrio import mesh
from meshtrio.client.channel import connect_to
from meshtrio.config import load
from meshtrio.discovery.dns.schedule import MAX_TTL
from meshtrio.util.tls_config import ClientTlsConfig
from tests.support.dns_mesh import NAME, ONE, TIMEOUT, TWO, dns_config, run_with_dns, serve_on
from tests.support.dns_server import run_dns_server
from tests.support.in_process_mesh import run_mesh
from tests.support.logs import watch_log
from tests.support.ports import find_free_port
from tests.support.servers import call_echo
from tests.support.tls import TEST_CA, serve_on_tcp


async def test_a_failed_connection_makes_the_lookup_earlier(short_dir: Path) -> None:
    # The TTL is above the maximum, so that only an early lookup finds the new address.
    async with run_dns_server(short_dir, {NAME: [ONE]}, ttl=3600) as dns:
        port = find_free_port()
        config = dns_config(dns, f"dns:///{NAME}:{port}")
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
        config = dns_config(dns, f"dns:///{NAME}:{port}")
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
        run_with_dns(dns_config(dns), short_dir) as meshed,
    ):

        async def reload(*endpoints: str) -> None:
            (short_dir / "mesh.toml").write_text(dns_config(dns, *endpoints))
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
        with trio.fail_after(TIMEOUT):
            assert await call_echo(channel) == ONE
            await dns.set_hosts({NAME: [TWO]})
            while await call_echo(channel) != TWO:
                await trio.lowlevel.checkpoint()
            assert [each.address for each in channel.endpoints] == [f"tcp:{TWO}:{port}"]


async def test_the_certificate_has_the_name_that_is_looked_up(
    short_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    TEST_CA.issue_cert(NAME).configure_cert(context)
    ca = short_dir / "ca.pem"
    TEST_CA.cert_pem.write_to_path(str(ca))
    async with (
        serve_on_tcp(context) as address,
        run_dns_server(short_dir, {NAME: [ONE], "other.internal": [ONE]}) as dns,
    ):
        port = address.rpartition(":")[2]
        config = dns_config(dns, f"dns:///{NAME}:{port}", tls={"ca": str(ca)})
        async with run_with_dns(config, short_dir) as meshed:
            assert await meshed.call() == "?"
        config = dns_config(dns, f"dns:///other.internal:{port}", tls={"ca": str(ca)})
        with watch_log("certificate is not valid for 'other.internal'") as refused:
            async with run_with_dns(config, short_dir):
                with trio.fail_after(TIMEOUT):
                    await refused.wait()
        tls = {"ca": str(ca), "server_name": NAME}
        config = dns_config(dns, f"dns:///other.internal:{port}", tls=tls)
        async with run_with_dns(config, short_dir) as meshed:
            assert await meshed.call() == "?"
        name = f"dns://{dns.address}/{NAME}:{port}"
        async with connect_to(name, tls=ClientTlsConfig(ca)) as channel:
            with trio.fail_after(TIMEOUT):
                assert await call_echo(channel) == "?"
