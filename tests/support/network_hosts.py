"""Hosts that are network namespaces: two of them, with a link between that can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tests import ROOT

DEVICE = "wire0"
UNREACHABLE_MAC = "02:00:00:00:00:99"


def run_checked(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


@attrs.frozen
class NetworkHost:
    name: str
    address: str

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[str]:
        """Run a Python program there, in a session of its own."""
        command = ["ip", "netns", "exec", self.name, sys.executable, *arguments]
        return subprocess.Popen(  # type: ignore[call-overload,no-any-return]
            command, cwd=ROOT, text=True, start_new_session=True, **options
        )

    def drop_packets_to(self, other: NetworkHost) -> None:
        """Send packets for the other host to a wrong MAC: they are lost, without any error."""
        self.run("ip", "neigh", "replace", other.address, "lladdr", UNREACHABLE_MAC, "dev", DEVICE)

    def restore_packets_to(self, other: NetworkHost) -> None:
        """Restore the link."""
        self.run("ip", "neigh", "del", other.address, "dev", DEVICE)

    def run(self, *command: str) -> None:
        run_checked("ip", "netns", "exec", self.name, *command)


@contextmanager
def make_linked_hosts() -> Iterator[tuple[NetworkHost, NetworkHost]]:
    """Skips where namespaces cannot be made."""
    if os.getuid() != 0 or shutil.which("ip") is None:
        pytest.skip("only root, and with iproute2, can make network namespaces")
    hosts = [
        NetworkHost(f"mt{os.getpid()}{side}", f"10.99.0.{n}") for n, side in enumerate("ab", 1)
    ]
    try:
        for host in hosts:
            run_checked("ip", "netns", "add", host.name)
    except subprocess.CalledProcessError:
        pytest.skip("network namespaces cannot be made here")
    a, b = hosts
    try:
        here, there = ["name", DEVICE, "netns", a.name], ["name", DEVICE, "netns", b.name]
        run_checked("ip", "link", "add", *here, "type", "veth", "peer", *there)
        for host in hosts:
            host.run("ip", "addr", "add", f"{host.address}/24", "dev", DEVICE)
            host.run("ip", "link", "set", DEVICE, "up")
            host.run("ip", "link", "set", "lo", "up")
        yield a, b
    finally:
        for host in hosts:
            subprocess.run(["ip", "netns", "del", host.name], check=False)


@attrs.frozen
class Certificates:
    """PEM files: an authority's, a server's and a client's, each with its key."""

    folder: Path

    def path(self, name: str) -> str:
        return str(self.folder / name)

    @classmethod
    def create(cls, folder: Path, host: str, clients: Sequence[str] = ("client",)) -> Certificates:
        """`clients` are the common names of as many certificates, and their files'."""
        import trustme

        ca, made = trustme.CA(), cls(folder)
        ca.cert_pem.write_to_path(made.path("ca.pem"))
        identities = {"server": host} | {name: f"{name}@example.org" for name in clients}
        for name, identity in identities.items():
            issued = ca.issue_cert(identity, common_name=name)
            issued.private_key_pem.write_to_path(made.path(f"{name}.key"))
            issued.cert_chain_pems[0].write_to_path(made.path(f"{name}.pem"))
        return made
