"""What the peers of the RPC benchmark share: payloads, metadata, TLS files, and the clock.

Each peer is a class with `serve(address)` and a method for each case that it has. A case runs for
about `seconds` and gives how many operations it did in how many seconds.
"""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
from echo.v1 import echo_pb2 as pb

SMALL = pb.EchoRequest(message="x" * 90)
LARGE = pb.EchoRequest(message="x" * (1024 * 1024 - 16))
STREAM_REPLIES = 64
HUGE = pb.RepeatRequest(message=LARGE.message, count=STREAM_REPLIES)
STREAM_LENGTH = 1000
"""Small messages of one stream, in the cases whose streams end."""
SMALL_REPLIES = pb.RepeatRequest(message=SMALL.message, count=STREAM_LENGTH)
DEADLINE = 10.0
"""Seconds; never reached."""
BARRIER = "BENCHMARK_BARRIER"
TLS_DIRECTORY = "BENCHMARK_TLS"
SERVICE = "/echo.v1.EchoService/"

_METADATA = (
    ("authorization", "Bearer " + "t" * 1200),
    ("x-tenant", "tenant-" + "0" * 40),
    ("x-client", "benchmark/1.0 " + "c" * 100),
    ("x-baggage", "user=" + "u" * 300),
    ("x-region", "eu-central-1"),
    ("x-features", ",".join(f"feature-{number}" for number in range(16))),
)
_request_ids = itertools.count(1)


def call_metadata() -> list[tuple[str, str]]:
    """Return 2 KB in seven keys. All but the last have the same value in each call."""
    return [*_METADATA, ("x-request-id", f"{next(_request_ids):032x}")]


async def requests(count: int = STREAM_LENGTH) -> AsyncIterator[Any]:
    """What callers write to feed a stream."""
    for _ in range(count):
        yield SMALL


def sync_requests(count: int = STREAM_LENGTH) -> Iterator[Any]:
    """`requests` for callers in threads."""
    for _ in range(count):
        yield SMALL


@attrs.frozen
class TlsFiles:
    """The server's certificate for `SERVER_NAME`, and the authority that clients trust."""

    directory: Path

    SERVER_NAME = "localhost"

    @property
    def certificate(self) -> Path:
        return self.directory / "server.pem"

    @property
    def key(self) -> Path:
        return self.directory / "server.key"

    @property
    def authority(self) -> Path:
        return self.directory / "authority.pem"


def make_tls_files(directory: Path) -> None:
    """Issue a certificate, in a folder that `TLS_DIRECTORY` is to name."""
    import trustme

    authority, files = trustme.CA(), TlsFiles(directory)
    issued = authority.issue_cert(TlsFiles.SERVER_NAME)
    authority.cert_pem.write_to_path(files.authority)
    issued.private_key_pem.write_to_path(files.key)
    for blob in issued.cert_chain_pems:
        blob.write_to_path(files.certificate, append=True)


def tls_files() -> TlsFiles | None:
    """Return the files if this process is to speak TLS."""
    directory = os.environ.get(TLS_DIRECTORY)
    return TlsFiles(Path(directory)) if directory else None


@attrs.frozen
class Measurement:
    """Operations, the seconds they took, and the CPU seconds of this process for them."""

    count: int
    seconds: float
    cpu: float
    latency_median: float | None = None
    """Seconds, if the case measures each call."""
    latency_p99: float | None = None


def wait_at_barrier() -> None:
    """Where CPU time or many clients are measured: none starts before all have connected."""
    if BARRIER in os.environ:
        print("ready", flush=True)
        sys.stdin.readline()


class LoopTimer:
    """Runs a loop for its time, after a warm-up that is not counted."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = 0.0
        self.count = 0

    def start(self) -> None:
        wait_at_barrier()
        self._cpu, self._began = time.process_time(), time.perf_counter()
        self._end = self._began + self._seconds
        self.count = 0

    @property
    def is_running(self) -> bool:
        return time.perf_counter() < self._end

    def stop(self, latencies: list[float] | None = None) -> Measurement:
        """Measure; `latencies` in seconds, one for each operation, or None."""
        seconds = time.perf_counter() - self._began
        cpu = time.process_time() - self._cpu
        if latencies is None:
            return Measurement(self.count, seconds, cpu)
        p99 = statistics.quantiles(latencies, n=100, method="inclusive")[98]
        return Measurement(len(latencies), seconds, cpu, statistics.median(latencies), p99)


def tcp_port(address: str) -> int:
    """A port below the ephemeral ones, for a peer that has no Unix sockets."""
    return 20_000 + sum(map(ord, address)) % 10_000
