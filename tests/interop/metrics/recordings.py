"""Runs: one implementation calls another, and both tell what they have counted for each call."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from tests import ROOT
from tests.interop.metrics.cases import CASES, LAST_CASE, Case
from tests.interop.metrics.series import (
    Instrument,
    Series,
    parse_instruments,
    parse_series,
    subtract,
)
from tests.support.mesh_processes import wait_until
from tests.tools import find_environment_python, find_tool

MESHTRIO, GRPC_GO, GRPCIO = "meshtrio", "grpc-go", "grpcio"
CLIENT, SERVER = "client", "server"
_FAST_EXPORT_ENVIRONMENT = {"GRPC_PYTHON_CENSUS_EXPORT_BATCH_INTERVAL_SECS": "0.02"}
"""grpcio's counts from time to time: every half of a second by default."""
CALL_DURATION = "grpc.client.call.duration"
_METRICS_AT_END = (
    "duration",
    "sent_total_compressed_message_size",
    "rcvd_total_compressed_message_size",
)


def peer_command(implementation: str) -> list[str]:
    """Return the command that runs a peer; skips the test if it is not installed."""
    if implementation == GRPC_GO:
        return [find_tool("grpc-go-metrics")]
    if implementation == GRPCIO:
        return [
            find_environment_python("grpcio-observability"),
            "-m",
            "tests.interop.metrics.grpcio_peer",
        ]
    return [sys.executable, "-m", "tests.interop.metrics.peer"]


class PeerProcess:
    """A process that serves or calls; see `peer`."""

    def __init__(self, process: subprocess.Popen[str], names: dict[str, str]) -> None:
        self._process = process
        self._names = names

    def request(self, line: str) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self.read_reply()

    def read_reply(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self._process.args} has ended"
        return json.loads(line)

    def collect_series(self) -> Series:
        return parse_series(self.request("metrics")["families"], self._names)


@contextmanager
def start_peer(implementation: str, role: str, socket: Path) -> Iterator[PeerProcess]:
    """A peer that is ready; `role`: "serve" or "call"."""
    with subprocess.Popen(
        [*peer_command(implementation), role, str(socket)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **_FAST_EXPORT_ENVIRONMENT},
    ) as process:
        try:
            peer = PeerProcess(process, {str(socket): "/socket"})
            assert peer.read_reply() == "ready"
            yield peer
        finally:
            process.kill()


# -- recordings --------------------------------------------------------------------------------


@attrs.frozen
class Recording:
    """The series of a client and a server."""

    client: str
    server: str
    cases: dict[str, dict[str, Series]]
    """By the names of a case and a side; a server's of those only that it is asked for."""
    before: dict[str, Series]
    """By side: what there was before the first call."""
    instruments: dict[str, Instrument]
    prometheus: dict[str, str]
    """By side: the text of all that was counted."""


def record(client: str, server: str) -> Recording:
    """Make all calls, once each."""
    with (
        tempfile.TemporaryDirectory(prefix="mt-") as folder,
        start_peer(server, "serve", Path(folder) / "s") as serving,
        start_peer(client, "call", Path(folder) / "s") as calling,
    ):
        # grpcio counts no calls. grpc-go counts the begin of attempts that it does not make, and of
        # methods that a server does not have, and no end of either.
        tallies = {
            CLIENT: SeriesReader(
                calling, are_attempts_complete if client == GRPCIO else is_call_complete
            ),
            SERVER: SeriesReader(
                serving, are_known_attempts_complete if server == GRPC_GO else are_attempts_complete
            ),
        }
        before = {side: tally.last_series for side, tally in tallies.items()}
        cases, answers = {}, {}
        for case in CASES:
            if case is LAST_CASE:
                answers[SERVER] = serving.request("metrics")
            calling.request(case.name)
            cases[case.name] = {
                side: tally.wait_for_change(case.attempts)
                for side, tally in tallies.items()
                if side == CLIENT or _is_server_recorded(server, case)
            }
        answers[CLIENT] = calling.request("metrics")
    families = [*answers[CLIENT]["families"], *answers[SERVER]["families"]]
    texts = {side: answer["prometheus"] for side, answer in answers.items()}
    return Recording(client, server, cases, before, parse_instruments(families), texts)


def _is_server_recorded(server: str, case: Case) -> bool:
    """Return whether the server's series are complete: grpcio counts a cancelled call later."""
    if not case.reaches_server or case is LAST_CASE:
        return False
    return not (server == GRPCIO and case.ended_by_caller)


IsComplete = Callable[[Series, int], bool]
"""Whether all of a call, of so many attempts, has been counted."""


class SeriesReader:
    """Reads the series of a peer, call by call."""

    def __init__(self, peer: PeerProcess, complete: IsComplete) -> None:
        self.last_series = peer.collect_series()
        self._peer = peer
        self._complete = complete

    def wait_for_change(self, attempts: int) -> Series:
        """What came since the last time; waits until all of it has: some of a call is counted only
        when its caller already knows how it ended."""
        now, found = wait_until(lambda: self._read(attempts))
        self.last_series = now
        return found

    def _read(self, attempts: int) -> tuple[Series, Series] | None:
        now = self._peer.collect_series()
        found = subtract(self.last_series, now)
        return (now, found) if self._complete(found, attempts) else None


def is_call_complete(found: Series, _attempts: int) -> bool:
    """The end of the call, which is counted after those of its attempts."""
    return sum(v.count for (name, _), v in found.items() if name == CALL_DURATION) == 1


def are_attempts_complete(
    found: Series, attempts: int, ignored_methods: frozenset[str] = frozenset()
) -> bool:
    """The begin of all attempts, and the end of those that are not of the methods `but`."""
    begun: Counter[str] = Counter()
    ended: Counter[tuple[str, str]] = Counter()
    for (metric, labels), value in found.items():
        method, what = dict(labels)["grpc.method"], metric.rpartition(".")[2]
        if what == "started":
            begun[method] += value.count
        elif metric != CALL_DURATION:
            ended[method, what] += value.count
    return begun.total() >= attempts and all(
        ended[method, what] == begun[method]
        for method in begun.keys() - ignored_methods
        for what in _METRICS_AT_END
    )


are_known_attempts_complete: IsComplete = partial(
    are_attempts_complete, ignored_methods=frozenset({"other"})
)


def record_all(*pairs: tuple[str, str]) -> list[Recording]:
    """Record several pairs of a client and a server concurrently: some calls wait."""
    for pair in pairs:
        for implementation in pair:
            peer_command(implementation)  # Skips here, rather than in a thread.
    with ThreadPoolExecutor(len(pairs)) as pool:
        futures = [pool.submit(record, *pair) for pair in pairs]
        return [future.result() for future in futures]
