"""Hosts that are network namespaces, joined by a bridge, with links that can be cut or impaired.

    with make_network(3) as network:
        a, b, c = network.hosts
        server = b.start("-m", "http.server")
        network.cut(a, b)                    # packets vanish, both ways
        network.cut(a, c, one_way=True)      # those from a to c vanish, those from c to a arrive
        network.impair(b, c, LinkQuality(latency=0.05, loss=0.1))
        network.heal(a, b)

A host has no route but to the others, and shares nothing with this machine but its files; a
process outside reaches it by Unix sockets. The bridge is in a namespace of its own, so that its
addresses and the firewall's rules of this machine do not matter. All of it is removed at the end
of the block, with what still runs in it, and that of test runs that were killed by the next run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import SystemRandom
from typing import Any

import attrs
import pytest

from tests import ROOT
from tests.support.delay_line import LinkQuality
from tests.support.namespace_names import (
    COMMAND_TIMEOUT,
    find_leftovers,
    make_name,
    remove_namespace,
)

DEVICE = "eth0"
_PREFIX_LENGTH = 24
_MAX_HOSTS = 200
_UNREACHABLE_MAC = "02:00:00:00:00:99"
_QUEUE_LENGTH = 10_000
"""Packets that wait for a delay line; more than the default of 500, which short bursts exceed."""
_PROGRAMS = ("ip", "nsenter")


@attrs.frozen
class Host:
    """A namespace, and its address."""

    name: str
    address: str

    def command(self, *words: str) -> list[str]:
        """Return a command that runs another one in the namespace, in the same process."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *words]

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Run a Python program there, in a session of its own."""
        command = self.command(sys.executable, *arguments)
        return subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **options)

    def run(self, *command: str) -> str:
        """Run a command there to its end, and return what it has written."""
        return _run(*self.command(*command))

    def set_links(self, *lines: str) -> None:
        """Run commands of ip(8) there, one a line."""
        _run("ip", "-n", self.name, "-batch", "-", stdin="\n".join(lines))


class Network:
    """The hosts, and the faults of the links between them, each a direction from one to another."""

    def __init__(self, hosts: Sequence[Host]) -> None:
        self.hosts = tuple(hosts)
        self._cut: set[tuple[Host, Host]] = set()
        self._delay_lines: dict[tuple[Host, Host], subprocess.Popen[str]] = {}

    def cut(self, source: Host, target: Host, *, one_way: bool = False) -> None:
        """Lose all packets between two hosts without any error.

        Args:
            source: A host.
            target: The other one.
            one_way: Whether packets from `target` to `source` still arrive.
        """
        for sender, receiver in _directions(source, target, one_way=one_way):
            # Packets for the other host are sent to a MAC address that nobody has.
            entry = f"{receiver.address} lladdr {_UNREACHABLE_MAC} dev {DEVICE} nud permanent"
            sender.set_links(f"neigh replace {entry}")
            self._cut.add((sender, receiver))

    def isolate(self, host: Host) -> None:
        """Cut a host from all others."""
        for other in self.hosts:
            if other != host:
                self.cut(host, other)

    def impair(
        self, source: Host, target: Host, quality: LinkQuality, *, one_way: bool = False
    ) -> None:
        """Delay, lose or throttle packets between two hosts; replaces what was set before.

        Skips the test where there is no /dev/net/tun. Both directions have the quality each, so
        that a round trip takes twice its latency.
        """
        if not os.path.exists("/dev/net/tun"):
            pytest.skip("links are impaired by TUN devices, which this kernel does not have")
        for direction in _directions(source, target, one_way=one_way):
            self._end_delay_line(direction)
            self._delay_lines[direction] = _start_delay_line(*direction, quality)

    def heal(self, source: Host, target: Host, *, one_way: bool = False) -> None:
        """End the faults of the link between two hosts, if it has any."""
        for direction in _directions(source, target, one_way=one_way):
            self._end_delay_line(direction)
            if direction in self._cut:
                self._cut.remove(direction)
                sender, receiver = direction
                sender.set_links(f"neigh del {receiver.address} dev {DEVICE}")

    def heal_all(self) -> None:
        """End all faults."""
        for source, target in {*self._cut, *self._delay_lines}:
            self.heal(source, target, one_way=True)

    def _end_delay_line(self, direction: tuple[Host, Host]) -> None:
        if (process := self._delay_lines.pop(direction, None)) is not None:
            # Its device goes with it, and the route to that.
            process.kill()
            with process:
                process.wait(COMMAND_TIMEOUT)

    def close(self) -> None:
        """End the processes of all faults."""
        for direction in list(self._delay_lines):
            self._end_delay_line(direction)


@contextmanager
def make_network(count: int) -> Iterator[Network]:
    """Make so many hosts for the block. Skips where namespaces cannot be made."""
    assert 0 < count <= _MAX_HOSTS
    if os.geteuid() != 0:
        pytest.skip("only root can make network namespaces")
    if missing := [program for program in _PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"network namespaces need {', '.join(missing)}: iproute2, util-linux")
    for name in find_leftovers():
        remove_namespace(name)
    random = SystemRandom()
    subnet = f"10.{random.randrange(256)}.{random.randrange(256)}"
    bridge = Host(make_name(), "")
    hosts = [Host(make_name(), f"{subnet}.{number + 1}") for number in range(count)]
    network = Network(hosts)
    try:
        try:
            _join(bridge, hosts)
        except subprocess.CalledProcessError as exc:
            pytest.skip(f"network namespaces cannot be made here: {exc.stderr.strip()}")
        yield network
    finally:
        network.close()
        for host in (*hosts, bridge):
            remove_namespace(host.name)


def _join(bridge: Host, hosts: Sequence[Host]) -> None:
    """Make the namespaces, and connect them."""
    names = [host.name for host in (bridge, *hosts)]
    _run("ip", "-batch", "-", stdin="\n".join(f"netns add {name}" for name in names))
    lines = ["link add bridge type bridge"]
    for number, host in enumerate(hosts):
        port, peer = f"port{number}", f"peer name {DEVICE} netns {host.name}"
        lines.append(f"link add {port} type veth {peer}")
        lines.append(f"link set {port} master bridge up")
    bridge.set_links(*lines, "link set bridge up")
    for host in hosts:
        address = f"{host.address}/{_PREFIX_LENGTH}"
        # No address of IPv6 may be another way to a host that was cut off.
        device = [f"link set {DEVICE} addrgenmode none", f"addr add {address} dev {DEVICE}"]
        host.set_links("link set lo up", *device, f"link set {DEVICE} up")


def _start_delay_line(source: Host, target: Host, quality: LinkQuality) -> subprocess.Popen[str]:
    device = f"line{target.address.rpartition('.')[2]}"
    words = [*("-m", "tests.support.delay_line"), device, DEVICE, *quality.arguments()]
    process = source.start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    route = f"route replace {target.address} dev {device} src {source.address}"
    source.set_links(f"link set {device} txqueuelen {_QUEUE_LENGTH} up", route)
    return process


def _directions(source: Host, target: Host, *, one_way: bool) -> list[tuple[Host, Host]]:
    return [(source, target)] if one_way else [(source, target), (target, source)]


def _run(*command: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        command, input=stdin, check=True, capture_output=True, text=True, timeout=COMMAND_TIMEOUT
    )
    return done.stdout
