"""Real clusters of etcd, of one or three members, on loopback.

What tests do to a cluster besides using it goes through etcd's own HTTP and JSON, so that it does
not depend on the code under test.
"""

from __future__ import annotations

import base64
import json
import signal
import ssl
import subprocess
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
import trustme

from meshtrio.util.tls_config import ClientTlsConfig
from tests.support.mesh_processes import wait_until
from tests.support.ports import find_free_port
from tests.tools import find_debian_tool

ROOT_PASSWORD = "root's password"
TIMINGS = ("--heartbeat-interval=50", "--election-timeout=500")
"""Milliseconds; half of the defaults, so that tests of elections take half of the time."""


def to_base64(text: str | bytes) -> str:
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


def _is_stopped_thread(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return True  # It has ended.


class EtcdMember:
    """One server; `start` may be called again after `kill`, and finds its data."""

    def __init__(self, name: str, folder: Path, scheme: str) -> None:
        self.name = name
        self.folder = folder
        self.url = f"{scheme}://127.0.0.1:{find_free_port()}"
        self.peer_url = f"http://127.0.0.1:{find_free_port()}"
        self.process: subprocess.Popen[bytes] | None = None
        self._is_stopped = False

    def start(self, *options: str) -> None:
        """Start the server; `EtcdCluster.wait_ready` waits until it answers."""
        command = [
            find_debian_tool("etcd"),
            f"--name={self.name}",
            f"--data-dir={self.folder / self.name}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            f"--listen-peer-urls={self.peer_url}",
            f"--initial-advertise-peer-urls={self.peer_url}",
            "--unsafe-no-fsync",
            "--logger=zap",
            *TIMINGS,
            *options,
        ]
        with (self.folder / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def kill(self) -> None:
        """Kill the server at once, stopped or not."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self._is_stopped = False

    def stop(self) -> None:
        """Stop it by SIGSTOP: it accepts connections, by the kernel, and is silent."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)
        # Its threads stop one after another, meanwhile it may still answer.
        tasks = Path(f"/proc/{self.process.pid}/task")
        wait_until(lambda: all(map(_is_stopped_thread, tasks.glob("*/stat"))))
        self._is_stopped = True

    def resume(self) -> None:
        """Continue it after `stop`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)
        self._is_stopped = False

    @property
    def is_alive(self) -> bool:
        """Whether it runs and is not stopped."""
        return self.process is not None and self.process.poll() is None and not self._is_stopped

    @property
    def log(self) -> str:
        return (self.folder / f"{self.name}.log").read_text(errors="replace")


class EtcdCluster:
    """A cluster with TLS if `certificate` is given, and with etcd's options."""

    def __init__(
        self,
        folder: Path,
        size: int,
        certificate: trustme.LeafCert | None,
        ca: trustme.CA,
        client_certificate: Path | None,
        options: Sequence[str],
    ) -> None:
        scheme = "http" if certificate is None else "https"
        self.members = [EtcdMember(f"m{number}", folder, scheme) for number in range(size)]
        self._options = list(options)
        self._ca_file = folder / "ca.pem"
        ca.cert_pem.write_to_path(str(self._ca_file))
        self._context: ssl.SSLContext | None = None
        if certificate is not None:
            self._write_certificate(certificate, folder)
            self._context = ssl.create_default_context(cafile=str(self._ca_file))
            # What is tested is the client's verification.
            self._context.check_hostname, self._context.verify_mode = False, ssl.CERT_NONE
            if client_certificate is not None:
                self._context.load_cert_chain(client_certificate)
        peers = ",".join(f"{each.name}={each.peer_url}" for each in self.members)
        self._options.append(f"--initial-cluster={peers}")
        self._token: str | None = None

    def _write_certificate(self, certificate: trustme.LeafCert, folder: Path) -> None:
        chain, key = folder / "server.pem", folder / "server.key"
        chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        certificate.private_key_pem.write_to_path(str(key))
        self._options += [f"--cert-file={chain}", f"--key-file={key}"]

    @property
    def endpoints(self) -> list[str]:
        return [each.url for each in self.members]

    @property
    def tls(self) -> ClientTlsConfig:
        """The configuration of a client that trusts the cluster."""
        return ClientTlsConfig(self._ca_file)

    def find_member(self, url: str) -> EtcdMember:
        (found,) = (each for each in self.members if each.url == url)
        return found

    # -- processes ---------------------------------------------------------------------------

    def start(self, member: EtcdMember) -> None:
        """Start a member, again if it was killed."""
        member.start(*self._options)

    def wait_ready(self) -> None:
        """Wait until each member that runs knows a leader and serves reads of the cluster."""
        for member in self.members:
            if member.is_alive:
                wait_until(lambda member=member: self._is_ready(member))

    def _is_ready(self, member: EtcdMember) -> bool:
        assert member.process is not None
        assert member.process.poll() is None, member.log
        try:
            self.post(member, "kv/range", key=to_base64("a"))
        except urllib.error.HTTPError as exc:
            return exc.code == 400 and b"user name is empty" in exc.read()
        except OSError:
            return False
        return True

    def find_leader(self) -> EtcdMember:
        """Return the leader, waiting until there is one that runs."""
        found: EtcdMember | None = wait_until(self._find_leader)
        assert found is not None
        return found

    def _find_leader(self) -> EtcdMember | None:
        for member in self.members:
            if member.is_alive:
                try:
                    status = self.post(member, "maintenance/status")
                except OSError:
                    continue
                if status.get("leader", "0") == status["header"]["member_id"]:
                    return member
        return None

    def shut_down(self) -> None:
        for member in self.members:
            if member.process is not None:
                member.kill()

    # -- etcd's own HTTP ---------------------------------------------------------------------

    def post(self, member: EtcdMember, path: str, **body: Any) -> Any:
        """Call a method by JSON; raises OSError."""
        headers = {} if self._token is None else {"Authorization": self._token}
        url, data = f"{member.url}/v3/{path}", json.dumps(body).encode()
        request = urllib.request.Request(url, data, headers)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=self._context)
        )
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)

    def call(self, path: str, **body: Any) -> Any:
        """Call a method of a member that runs."""
        member = next(each for each in self.members if each.is_alive)
        return self.post(member, path, **body)

    def put(self, key: str | bytes, value: str | bytes = "", **more: Any) -> None:
        self.call("kv/put", key=to_base64(key), value=to_base64(value), **more)

    def delete(self, key: str) -> None:
        self.call("kv/deleterange", key=to_base64(key))

    def compact(self) -> int:
        """Compact all history before now; return the revision."""
        revision = int(self.call("kv/range", key=to_base64("a"))["header"]["revision"])
        self.call("kv/compaction", revision=revision, physical=True)
        return revision

    def make_space(self) -> None:
        """Shrink the database of the only member, and end its alarm."""
        self.compact()
        self.call("maintenance/defragment")
        (alarm,) = self.call("maintenance/alarm", action="GET")["alarms"]
        self.call("maintenance/alarm", action="DEACTIVATE", **alarm)

    def leases(self) -> set[int]:
        return {int(each["ID"]) for each in self.call("lease/leases").get("leases", ())}

    def add_user(self, name: str, password: str, prefix: str) -> None:
        """Add a user who may read and write the keys with a prefix."""
        self.call("auth/user/add", name=name, password=password)
        self.call("auth/role/add", name=f"{name}-role")
        end = to_base64(prefix[:-1] + chr(ord(prefix[-1]) + 1))
        permission = {"permType": "READWRITE", "key": to_base64(prefix), "range_end": end}
        self.call("auth/role/grant", name=f"{name}-role", perm=permission)
        self.call("auth/user/grant", user=name, role=f"{name}-role")

    def enable_auth(self) -> None:
        """Require users, and call as root from now on."""
        self.call("auth/user/add", name="root", password=ROOT_PASSWORD)
        self.call("auth/role/add", name="root")
        self.call("auth/user/grant", user="root", role="root")
        self.call("auth/enable")
        self.log_in()

    def log_in(self) -> None:
        """Renew the token of `post`, as root."""
        self._token = None
        answer = self.call("auth/authenticate", name="root", password=ROOT_PASSWORD)
        self._token = answer["token"]


@contextmanager
def run_etcd(
    size: int = 1,
    *options: str,
    certificate: trustme.LeafCert | None = None,
    ca: trustme.CA | None = None,
    client_certificate: Path | None = None,
) -> Iterator[EtcdCluster]:
    """Run a cluster for the block.

    Args:
        size: Number of members.
        options: Options of etcd.
        certificate: The certificate of all members; None for plaintext.
        ca: The authority that `EtcdCluster.tls` trusts.
        client_certificate: File with certificate and key, for the test's own calls.
    """
    with tempfile.TemporaryDirectory(prefix="mt-etcd-") as name:
        cluster = EtcdCluster(
            Path(name), size, certificate, ca or trustme.CA(), client_certificate, options
        )
        try:
            for member in cluster.members:
                cluster.start(member)
            cluster.wait_ready()
            yield cluster
        finally:
            cluster.shut_down()


async def in_thread(function: Callable[..., Any], *args: Any) -> Any:
    """Run what blocks, such as the methods of `EtcdCluster`, while the event loop runs."""
    return await trio.to_thread.run_sync(function, *args)
