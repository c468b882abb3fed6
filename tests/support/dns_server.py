"""A real dnsmasq on a free port of 127.0.0.1, whose names the test gives."""

from __future__ import annotations

import getpass
import signal
import subprocess
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from tests.support.ports import find_free_port
from tests.tools import find_debian_tool

_TIMEOUT = 30


class DnsServer:
    """One dnsmasq, which knows the names of `internal` that it was given, and refuses others."""

    def __init__(self, folder: Path, ttl: int) -> None:
        self._folder = folder
        self._hosts_file = folder / "hosts"
        self._log_file = folder / "dnsmasq.log"
        self._ttl = ttl
        self._process: subprocess.Popen[bytes] | None = None
        self._options: tuple[str, ...] = ()
        self.port = find_free_port()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(self, hosts: Mapping[str, Iterable[str]], *options: str) -> None:
        """Start it with addresses by name, and further options of dnsmasq."""
        self._write_hosts(hosts)
        self._options = options
        await self._spawn()

    async def _spawn(self) -> None:
        command = [
            find_debian_tool("dnsmasq"),
            *("--keep-in-foreground", "--conf-file=/dev/null", "--pid-file", "--no-resolv"),
            *("--no-hosts", "--bind-interfaces", "--listen-address=127.0.0.1", "--log-facility=-"),
            *("--log-queries", "--local=/internal/", f"--user={getpass.getuser()}"),
            *(
                f"--port={self.port}",
                f"--local-ttl={self._ttl}",
                f"--addn-hosts={self._hosts_file}",
            ),
            *self._options,
        ]
        reads = self._count_lines("read ")
        with self._log_file.open("ab") as log:
            popen = partial(subprocess.Popen, command, stdout=log, stderr=log)
            self._process = await trio.to_thread.run_sync(popen)
        await self._poll(lambda: self._count_lines("read ") > reads)

    async def set_hosts(self, hosts: Mapping[str, Iterable[str]]) -> None:
        """Replace the addresses; return once it answers with them."""
        self._write_hosts(hosts)
        reads = self._count_lines("read ")
        self.send_signal(signal.SIGHUP)
        await self._poll(lambda: self._count_lines("read ") > reads)

    async def restart(self, *options: str) -> None:
        """Start it again on the same port, with other options: SRV records are among them."""
        self.kill()
        self._options = options
        await self._spawn()

    def count_queries(self, name: str, record_type: str = "A") -> int:
        """Return how often the records of a name were asked for."""
        return self._count_lines(f"query[{record_type}] {name} ")

    async def wait_for_queries(self, count: int, name: str, record_type: str = "A") -> None:
        await self._poll(lambda: self.count_queries(name, record_type) >= count)

    async def _poll(self, condition: Callable[[], bool]) -> None:
        """Wait for what only the log of another process shows."""
        with trio.fail_after(_TIMEOUT):
            while not condition():
                assert self._process is not None
                assert self._process.poll() is None, self._log_file.read_text()
                await trio.sleep(0.01)

    def send_signal(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _write_hosts(self, hosts: Mapping[str, Iterable[str]]) -> None:
        lines = [f"{address} {name}\n" for name, found in hosts.items() for address in found]
        self._hosts_file.write_text("".join(lines))

    def _count_lines(self, text: str) -> int:
        return self._log_file.read_text().count(text) if self._log_file.exists() else 0


@asynccontextmanager
async def run_dns_server(
    folder: Path, hosts: Mapping[str, Iterable[str]], *options: str, ttl: int = 1
) -> AsyncIterator[DnsServer]:
    """Run a dnsmasq for the block, with files in `folder`."""
    server = DnsServer(folder, ttl)
    try:
        await server.start(hosts, *options)
        yield server
    finally:
        server.kill()
