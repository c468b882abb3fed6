"""Network namespaces as hosts: what reaches whom while links are cut and impaired, and the end."""

from __future__ import annotations

import math
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pytest

from tests import ROOT
from tests.support import namespace_names
from tests.support.delay_line import DelayLine, LinkQuality
from tests.support.mesh_processes import wait_until
from tests.support.network_namespaces import Host, Network, make_network

PORT = 7000
RECEIVER = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("", 7000))
print("up", flush=True)
while True:
    print(sock.recv(2000).decode(), flush=True)
"""
SENDER = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for word in sys.argv[2:]:
    sock.sendto(word.encode(), (sys.argv[1], 7000))
"""
ECHO_SERVER = """
import socket
listener = socket.create_server(("", 7000))
print("up", flush=True)
while True:
    sock = listener.accept()[0]
    while data := sock.recv(65536):
        sock.sendall(data)
"""
ROUND_TRIPS = """
import socket, sys, time
sock = socket.create_connection((sys.argv[1], 7000))
sock.settimeout(20)
message = b"x" * int(sys.argv[2])
for _ in range(int(sys.argv[3])):
    began = time.monotonic()
    sock.sendall(message)
    left = len(message)
    while left:
        left -= len(sock.recv(65536))
    print(time.monotonic() - began)
"""


@contextmanager
def running(host: Host, program: str) -> Iterator[subprocess.Popen[str]]:
    with host.start("-c", program, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        try:
            yield process
        finally:
            process.kill()


@attrs.frozen
class Receiver:
    """Receives datagrams on a host."""

    host: Host
    process: subprocess.Popen[str]

    def received_until(self, last: str) -> list[str]:
        """Return what was received, until a word is."""
        assert self.process.stdout is not None
        words = []
        while last not in words:
            words.append(self.process.stdout.readline().strip())
        return words


@contextmanager
def receiving(host: Host) -> Iterator[Receiver]:
    with running(host, RECEIVER) as process:
        yield Receiver(host, process)


def send(source: Host, target: Host, *words: str) -> None:
    source.run(sys.executable, "-c", SENDER, target.address, *words)


def round_trips(source: Host, target: Host, *, size: int = 100, count: int = 9) -> list[float]:
    """Return the seconds that messages to an echo server and back have taken."""
    command = (sys.executable, "-c", ROUND_TRIPS, target.address, str(size), str(count))
    return [float(line) for line in source.run(*command).split()]


@pytest.fixture
def network() -> Iterator[Network]:
    with make_network(3) as made:
        yield made


def test_hosts_reach_each_other_and_nothing_else(network: Network) -> None:
    a, b, c = network.hosts
    with receiving(b) as receiver:
        send(a, b, "from a")
        send(c, b, "from c")
        assert receiver.received_until("from c") == ["from a", "from c"]
    assert "default" not in a.run("ip", "route")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        a.run(sys.executable, "-c", SENDER, "192.0.2.1", "x")
    assert "Network is unreachable" in caught.value.stderr


def test_a_cut_both_ways(network: Network) -> None:
    a, b, c = network.hosts
    with receiving(a) as on_a, receiving(b) as on_b:
        send(a, b, "before")
        network.cut(a, b)
        send(a, b, "lost")
        send(b, a, "lost")
        send(c, a, "others arrive")
        send(c, b, "others arrive")
        network.heal(a, b)
        send(a, b, "after")
        send(b, a, "after")
        assert on_b.received_until("after") == ["before", "others arrive", "after"]
        assert on_a.received_until("after") == ["others arrive", "after"]


def test_a_cut_one_way(network: Network) -> None:
    a, b, _ = network.hosts
    with receiving(a) as on_a, receiving(b) as on_b:
        network.cut(a, b, one_way=True)
        send(a, b, "lost")
        send(b, a, "arrives")
        assert on_a.received_until("arrives") == ["arrives"]
        network.heal_all()
        send(a, b, "after")
        assert on_b.received_until("after") == ["after"]


def test_an_isolated_host(network: Network) -> None:
    a, b, c = network.hosts
    with receiving(b) as on_b:
        network.isolate(a)
        send(a, b, "lost")
        send(c, b, "arrives")
        assert on_b.received_until("arrives") == ["arrives"]
        network.heal(a, b)
        send(a, b, "after")
        assert on_b.received_until("after") == ["after"]


def test_a_connection_survives_a_cut(network: Network) -> None:
    """TCP sends again what was lost: nothing of a cut is an error at first."""
    a, b, _ = network.hosts
    program = ROUND_TRIPS.replace("for _", "print('up', flush=True); sys.stdin.readline()\nfor _")
    words = ["-c", program, b.address, "100", "1"]
    with (
        running(b, ECHO_SERVER),
        a.start(*words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client,
    ):
        assert client.stdout is not None
        assert client.stdout.readline() == "up\n"
        network.cut(b, a, one_way=True)
        assert client.stdin is not None
        client.stdin.write("go\n")
        client.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            client.wait(0.5)
        network.heal(b, a)
        assert client.wait(20) == 0


def test_latency_one_way_and_both_ways(network: Network) -> None:
    a, b, c = network.hosts
    with running(b, ECHO_SERVER):
        network.impair(a, b, LinkQuality(latency=0.05), one_way=True)
        assert 0.05 <= min(round_trips(a, b)) < 0.09
        network.impair(a, b, LinkQuality(latency=0.1))
        assert 0.2 <= min(round_trips(a, b)) < 0.25
        assert statistics.median(round_trips(c, b)) < 0.05
        network.heal(a, b)
        assert statistics.median(round_trips(a, b)) < 0.05


def test_bandwidth(network: Network) -> None:
    a, b, _ = network.hosts
    with running(b, ECHO_SERVER):
        network.impair(a, b, LinkQuality(bandwidth=4e6), one_way=True)
        # A quarter of a megabyte takes half a second at four megabits.
        assert 0.45 < round_trips(a, b, size=250_000, count=1)[0] < 5


def test_lost_packets(network: Network) -> None:
    a, b, _ = network.hosts
    # As many as fit into the buffer of a receiver that is not scheduled meanwhile.
    words = [str(number) for number in range(200)]
    with receiving(b) as receiver:
        network.impair(a, b, LinkQuality(loss=0.2), one_way=True)
        # One of the last ones arrives.
        send(a, b, *words, *["end"] * 10)
        received = receiver.received_until("end")
        assert 140 < len(received) < 180
        assert received == [word for word in [*words, "end"] if word in set(received)]


def test_an_impaired_link_can_be_cut(network: Network) -> None:
    a, b, _ = network.hosts
    with receiving(b) as receiver:
        network.impair(a, b, LinkQuality(latency=0.01))
        network.cut(a, b)
        send(a, b, "lost")
        network.heal_all()
        send(a, b, "after")
        assert receiver.received_until("after") == ["after"]


def test_nothing_is_left(network: Network) -> None:
    with make_network(2) as other:
        a, b = other.hosts
        process = a.start("-c", "import time; time.sleep(3600)")
        other.impair(a, b, LinkQuality(latency=1))
        names = [host.name for host in other.hosts]
        assert set(names) <= set(os.listdir(namespace_names.FOLDER))
    assert process.wait(20) == -signal.SIGKILL
    assert not set(names) & set(os.listdir(namespace_names.FOLDER))
    assert {host.name for host in network.hosts} <= set(os.listdir(namespace_names.FOLDER))


KILLED = """
import sys, time
from tests.support.network_namespaces import make_network
with make_network(2) as network:
    process = network.hosts[0].start("-c", "import time; time.sleep(3600)")
    print(process.pid, *(host.name for host in network.hosts), flush=True)
    time.sleep(3600)
"""


@pytest.mark.usefixtures("network")
def test_what_a_killed_run_has_left_is_removed_by_the_next() -> None:
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        pid, *names = run.stdout.readline().split()
        assert not set(names) & set(namespace_names.find_leftovers())
        run.kill()
    assert set(names) <= set(namespace_names.find_leftovers())
    with make_network(1):
        assert not set(names) & set(os.listdir(namespace_names.FOLDER))
    wait_until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in state_of(pid))


def state_of(pid: str) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_delay_line_keeps_the_order() -> None:
    line = DelayLine(LinkQuality(latency=1, jitter=0.9, seed=3))
    packets = [bytes([number]) for number in range(100)]
    for number, packet in enumerate(packets):
        line.put(packet, number / 100)
    assert line.take(0.1) == []
    assert 0 < (line.time_to_next(0.1) or 0) < 2
    assert [*line.take(1.2), *line.take(3)] == packets
    assert line.time_to_next(3) is None


def test_a_delay_line_has_a_bandwidth_and_a_bounded_queue() -> None:
    line = DelayLine(LinkQuality(bandwidth=8000))
    for _ in range(6000):
        line.put(bytes(1000), 0.0)
    assert len(line.take(0.99)) == 0
    assert len(line.take(10.001)) == 10
    assert len(line.take(math.inf)) < 5000


def test_the_arguments_of_a_link_are_read_back() -> None:
    quality = LinkQuality(0.1, 0.02, 0.5, math.inf, 7)
    assert LinkQuality.from_arguments(quality.arguments()) == quality
