"""Faults of hosts and of the links between them, each applied, held and ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from random import Random

from tests.several_hosts.node_host import TTL, NodeHost
from tests.support.delay_line import LinkQuality
from tests.support.mesh_processes import child_pids
from tests.support.network_namespaces import Network

HOLD = 1.0, 6.0
"""Seconds that a fault lasts, at least and at most: shorter and longer than a lease."""


class Faults:
    """Applies faults one after the other, chosen by a seeded generator."""

    def __init__(self, network: Network, hosts: list[NodeHost], random: Random) -> None:
        self._network, self._hosts, self._random = network, hosts, random
        self.kinds: dict[str, Callable[[NodeHost], None]] = {
            "mesh killed": self._kill_mesh,
            "mesh rolled": self._roll_mesh,
            "mesh stopped for longer than its lease": self._stop_mesh,
            "plugin killed": self._kill_plugin,
            "member killed": self._kill_member,
            "leader killed": self._kill_leader,
            "member stopped": self._stop_member,
            "host cut off": self._isolate,
            "link cut": self._cut,
            "link cut one way": self._cut_one_way,
            "links slow and lossy": self._impair,
            "history compacted": lambda host: self._admin(host, "compact"),
            "leases revoked": lambda host: self._admin(host, "revoke"),
        }

    def apply(self, kind: str) -> None:
        """Apply a fault to a random host, and end it."""
        self.kinds[kind](self._random.choice(self._hosts))

    def _hold(self) -> None:
        time.sleep(self._random.uniform(*HOLD))

    def _other(self, host: NodeHost) -> NodeHost:
        return self._random.choice([each for each in self._hosts if each is not host])

    # -- processes -----------------------------------------------------------------------------

    def _kill_mesh(self, host: NodeHost) -> None:
        host.end("mesh")
        if self._random.random() < 0.5:
            self._hold()
        host.start_mesh()

    def _roll_mesh(self, host: NodeHost) -> None:
        host.end("mesh", signal.SIGTERM)
        host.start_mesh()

    def _stop_mesh(self, host: NodeHost) -> None:
        host.signal("mesh", signal.SIGSTOP)
        time.sleep(TTL + self._random.uniform(0.5, 3.0))
        host.signal("mesh", signal.SIGCONT)

    def _kill_plugin(self, host: NodeHost) -> None:
        pids = [
            pid
            for pid in child_pids(host.processes["mesh"].pid)
            if b"execution_recorder" in _read_command(pid)
        ]
        if pids:
            os.kill(self._random.choice(pids), signal.SIGKILL)

    def _kill_member(self, host: NodeHost) -> None:
        host.end("etcd")
        self._hold()
        host.start_etcd()

    def _kill_leader(self, host: NodeHost) -> None:
        leaders = [each for each in self._hosts if each.run_admin("leader") == "True\n"]
        self._kill_member(leaders[0] if leaders else host)

    def _stop_member(self, host: NodeHost) -> None:
        host.signal("etcd", signal.SIGSTOP)
        self._hold()
        host.signal("etcd", signal.SIGCONT)

    def _admin(self, host: NodeHost, command: str) -> None:
        host.run_admin(command)

    # -- links ---------------------------------------------------------------------------------

    def _isolate(self, host: NodeHost) -> None:
        self._network.isolate(host.host)
        self._hold()
        self._network.heal_all()

    def _cut(self, host: NodeHost) -> None:
        self._network.cut(host.host, self._other(host).host)
        self._hold()
        self._network.heal_all()

    def _cut_one_way(self, host: NodeHost) -> None:
        self._network.cut(host.host, self._other(host).host, one_way=True)
        self._hold()
        self._network.heal_all()

    def _impair(self, host: NodeHost) -> None:
        seed = self._random.randrange(2**32)
        quality = LinkQuality(latency=0.05, jitter=0.03, loss=0.05, seed=seed)
        for other in self._hosts:
            if other is not host:
                self._network.impair(host.host, other.host, quality)
        self._hold()
        self._network.heal_all()


def _read_command(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except OSError:
        return b""
