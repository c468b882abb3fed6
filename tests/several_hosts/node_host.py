"""A host with a member of etcd, a mesh and a client, all of which speak mutual TLS."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.support.certificates import Authority
from tests.support.mesh_processes import plugin_table, to_toml, wait_until
from tests.support.network_namespaces import Host
from tests.tools import find_debian_tool

TTL = 3
"""Seconds of the leases."""
INSTANCES = 2
GATEWAY_PORT, ETCD_PORT, ETCD_PEER_PORT = 7443, 2379, 2380


class NodeHost:
    """The processes of one host; each can be started again after its end."""

    def __init__(
        self,
        number: int,
        host: Host,
        others: list[Host],
        folder: Path,
        authority: Authority,
        plugins: str | None = None,
    ) -> None:
        """Write the config; `plugins` are tables instead of those of the recorder."""
        self.name, self.host = f"host-{number}", host
        self.folder = folder / self.name
        self.folder.mkdir()
        self.mesh_socket = self.folder / "run" / "mesh.sock"
        self.counted = self.folder / "counted"
        self.processes: dict[str, subprocess.Popen[Any]] = {}
        self.certificate = authority.issue(self.name, host.address)
        self._members = {f"host-{n}": each.address for n, each in enumerate(others)}
        self._write_config(self._make_recorder_table() if plugins is None else plugins)

    def _make_recorder_table(self) -> str:
        return plugin_table(
            "echo",
            "execution_recorder.py",
            instances=INSTANCES,
            env={"COUNTED": str(self.counted)},
            backoff={"initial": 0.05, "maximum": 0.5},
            max_restarts=1000,
        )

    def _write_config(self, plugins: str) -> None:
        files = self.certificate
        server = {key: files.server_table[key] for key in ("certificate", "key", "client_ca")}
        gateway = f"tcp://{self.host.address}:{GATEWAY_PORT}"
        etcd = [f"https://{address}:{ETCD_PORT}" for address in self._members.values()]
        discovery = {
            "etcd": etcd,
            "node": self.name,
            "advertise": gateway,
            "ttl": TTL,
            "tls": files.client_table,
            "peer_tls": files.client_table,
        }
        config = [
            f'[mesh.gateway]\nlisten = "{gateway}"\ntls = {to_toml(server)}',
            '[mesh.access.gateway]\nsubjects = ["CN=host-*"]',
            "[mesh.discovery]",
            *(f"{key} = {to_toml(value)}" for key, value in discovery.items()),
            plugins,
        ]
        (self.folder / "mesh.toml").write_text("\n".join(config))

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                self.host.command(*command), stdout=log, stderr=log, start_new_session=True
            )

    def start_etcd(self) -> None:
        files, address = self.certificate, self.host.address
        client, peer = f"https://{address}:{ETCD_PORT}", f"https://{address}:{ETCD_PEER_PORT}"
        cluster = ",".join(
            f"{name}=https://{each}:{ETCD_PEER_PORT}" for name, each in self._members.items()
        )
        tls = [
            f"--{kind}{option}={path}"
            for kind in ("", "peer-")
            for option, path in (
                ("cert-file", files.certificate),
                ("key-file", files.key),
                ("trusted-ca-file", files.ca),
            )
        ]
        self._start(
            *("etcd", find_debian_tool("etcd"), f"--name={self.name}"),
            f"--data-dir={self.folder / 'etcd'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster={cluster}",
            *("--client-cert-auth", "--peer-client-cert-auth", *tls),
            *("--unsafe-no-fsync", "--heartbeat-interval=100", "--election-timeout=1000"),
        )

    def start_mesh(self) -> None:
        serve = [sys.executable, "-m", "meshtrio", "serve", str(self.folder / "mesh.toml")]
        self._start("mesh", *serve, "--runtime-dir", str(self.folder / "run"))

    def start_client(self) -> None:
        program = str(Path(__file__).with_name("client.py"))
        self._start("client", sys.executable, program, str(self.mesh_socket), self.name)

    def end(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process that is to end, and wait until it has."""
        process = self.processes.pop(name)
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        process.wait(60)

    def signal(self, name: str, number: int) -> None:
        self.processes[name].send_signal(number)

    def wait_ready(self, count: int) -> None:
        """Wait until the plugin's instances have become ready `count` times, in all."""
        wait_until(lambda: self.read_log("mesh").count("ready after") >= count)

    def run_admin(self, command: str) -> str:
        """Run a command of `etcd_admin` with the member of this host; "" if it does not answer."""
        files, url = self.certificate, f"https://{self.host.address}:{ETCD_PORT}"
        words = [command, url, str(files.ca), str(files.certificate), str(files.key)]
        module = "tests.several_hosts.etcd_admin"
        try:
            return self.host.run(sys.executable, "-m", module, *words)
        except subprocess.SubprocessError:
            return ""

    def read_log(self, name: str) -> str:
        try:
            return (self.folder / f"{name}.log").read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def read_client(self) -> tuple[dict[str, int], list[dict[str, str]]]:
        """Return the counts of the client, which has ended, and its failures."""
        lines = [json.loads(x) for x in self.read_log("client").splitlines() if x[:1] == "{"]
        assert lines, self.read_log("client")[-2000:]
        return lines[-1], lines[:-1]

    def close(self) -> None:
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            process.wait(60)
