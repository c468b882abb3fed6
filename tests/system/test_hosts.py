"""One service on two hosts: network namespaces, TCP with mutual TLS, and a link that is cut."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tests.support.certificates import Certificates
from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    echo_plugin_table,
    pids_with_environment,
    wait_until,
)
from tests.support.network_namespaces import Host, Network, make_network

PORT = 7443


@attrs.frozen
class NearHost:
    """The host whose mesh and client the test controls."""

    network: Network
    host: Host
    process: subprocess.Popen[str]

    def do(self, word: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def answered_by(self) -> int:
        found = self.do("call").split()
        assert found[0] == "answered", found
        return int(found[1])


@contextmanager
def running(host: Host, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    process = host.start(*arguments, stdin=pipe, stdout=pipe)
    with process:
        try:
            yield process
        finally:
            process.terminate()
            process.wait(20)


def far_config(certificates: Certificates, host: Host) -> str:
    files = certificates.path
    return echo_plugin_table(
        listen=f"tcp://{host.address}:{PORT}",
        serve_tls={
            "certificate": files("server.pem"),
            "key": files("server.key"),
            "client_ca": files("ca.pem"),
        },
        tls=client_files(certificates),
    )


def client_files(certificates: Certificates) -> dict[str, str]:
    files = certificates.path
    return {"ca": files("ca.pem"), "certificate": files("client.pem"), "key": files("client.key")}


def near_config(certificates: Certificates, far: Host) -> str:
    files = client_files(certificates)
    tls = ", ".join(f'{key} = "{value}"' for key, value in files.items())
    address = f"tcp://{far.address}:{PORT}"
    return echo_plugin_table() + (
        f'[[service]]\nname = "plugin.echo"\nendpoints = ["{address}"]\ntls = {{ {tls} }}\n'
    )


@pytest.fixture
def hosts(short_dir: Path) -> Iterator[tuple[NearHost, Host, int]]:
    """The near host; the far one, whose mesh is up; and the pid of the far one's plugin."""
    with make_network(2) as network:
        a, b = network.hosts
        certificates = Certificates.create(short_dir, b.address)
        (short_dir / "far.toml").write_text(far_config(certificates, b))
        (short_dir / "near.toml").write_text(near_config(certificates, b))
        serve = ["-m", "meshtrio", "serve", str(short_dir / "far.toml")]
        far_dir = short_dir / "far"
        with running(b, *serve, "--runtime-dir", str(far_dir)):
            pids = wait_until(lambda: pids_with_environment(f"PLUGIN_SOCKET={far_dir}/"))
            near = [
                str(PLUGINS_DIRECTORY / "remote_controlled_mesh.py"),
                str(short_dir / "near.toml"),
            ]
            with running(a, *near, str(short_dir / "near")) as process:
                assert process.stdout is not None
                assert process.stdout.readline() == "up\n"
                yield NearHost(network, a, process), b, pids[0]
                assert process.stdin is not None
                process.stdin.close()
                assert process.wait(20) == 0


def test_calls_spill_over_to_the_other_host_and_come_back(
    hosts: tuple[NearHost, Host, int],
) -> None:
    near, _, far_pid = hosts
    wait_until(lambda: near.answered_by() != far_pid)
    assert far_pid not in {near.answered_by() for _ in range(10)}
    assert near.do("stop") == "stopped"
    assert {near.answered_by() for _ in range(10)} == {far_pid}
    assert near.do("start") == "started"
    wait_until(lambda: near.answered_by() != far_pid)
    assert far_pid not in {near.answered_by() for _ in range(10)}


def test_a_cut_link_is_noticed_and_its_mending_too(
    hosts: tuple[NearHost, Host, int],
) -> None:
    near, far, far_pid = hosts
    near.do("stop")
    assert near.answered_by() == far_pid
    near.network.cut(near.host, far)
    began = time.monotonic()
    ended = near.do("hang")
    # A silence of 0.5 s, half a second for a sign of life, both looked at once a second.
    assert ended.startswith("ended "), ended
    assert "keepalive timeout: no data within 0.5 s of a PING" in ended, ended
    assert time.monotonic() - began < 4.0
    near.network.heal(near.host, far)
    assert near.answered_by() == far_pid
