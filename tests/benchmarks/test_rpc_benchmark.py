"""The RPC benchmark measures what it says it does."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import time
from typing import Any

import pytest

from tests import ROOT
from tests.benchmarks.cases import CASES
from tests.benchmarks.peers import PEERS
from tests.benchmarks.peers.base import LoopTimer, call_metadata
from tests.benchmarks.peers.pacer import Pacer
from tests.benchmarks.processes import Figure, cpu_seconds
from tests.benchmarks.report import median_figure, table, to_json

RATE = 1000


class MethodFinder:
    """A peer whose cases give the name of the method that they run."""

    def __getattr__(self, name: str) -> str:
        return name

    def run(self, method: str, *arguments: Any) -> str:
        return method


@pytest.mark.parametrize("case", CASES)
def test_a_peer_has_a_case_or_is_left_out_of_it(case: str) -> None:
    method: Any = CASES[case].run(MethodFinder(), "", 0)
    peers = {name for name, peer in PEERS.items() if hasattr(peer, method)}
    assert peers | set(CASES[case].left_out) == set(PEERS)
    assert set(CASES[case].left_out) < set(PEERS)


def test_paced_calls_are_due_at_fixed_times_however_late_they_are_taken() -> None:
    with Pacer(RATE, 20) as pacer:
        select.select([pacer], [], [])
        taken = pacer.take_due()
        late = taken[0] + 7.5 / RATE
        while time.monotonic() < late:
            pass
        at_once = pacer.take_due()
        assert len(taken + at_once) >= 8
        taken += at_once
        while not pacer.has_ended:
            select.select([pacer], [], [])
            taken += pacer.take_due()
            assert taken[-1] <= time.monotonic()
        # There are no more, although the timer runs on.
        select.select([pacer], [], [])
        assert pacer.take_due() == []
    assert taken == pytest.approx([taken[0] + n / RATE for n in range(20)], abs=1e-6)


def test_cpu_time_of_another_process_is_what_it_measures_itself() -> None:
    code = """
import time
while time.process_time() < 0.05: pass
print(time.process_time(), flush=True)
input()
print(time.process_time(), flush=True)
input()
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True, bufsize=1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        before = float(process.stdout.readline())
        seen = cpu_seconds(process.pid)
        process.stdin.write("\n")
        after = float(process.stdout.readline())
        process.stdin.write("\n")
    assert before <= seen <= after


def test_quantiles_of_latencies() -> None:
    clock = LoopTimer(1.0)
    clock.start()
    measured = clock.stop([number / 100 for number in range(101)])
    assert measured.count == 101
    assert measured.latency_median == pytest.approx(0.5)
    assert measured.latency_p99 == pytest.approx(0.99)


def test_figures_are_medians_and_have_latencies_only_if_measured() -> None:
    plain = median_figure([Figure(1, 6, 7), Figure(3, 4, 9), Figure(2, 5, 8)])
    assert plain == Figure(2, 5, 8)
    paced = median_figure([Figure(2, 5, 8, 10, 30), Figure(2, 5, 8, 20, 50)])
    assert paced == Figure(2, 5, 8, 15, 40)
    found = to_json({"a": {"x": plain, "y": paced}})
    assert found["a"]["x"] == {"rate": 2, "client_cpu": 5, "server_cpu": 8}
    assert found["a"]["y"]["latency_p99"] == 40


def test_peers_are_compared_by_latency_if_the_rate_is_fixed() -> None:
    paced = {"meshtrio": Figure(1000, 5, 8, 100, 400), "other": Figure(1000, 5, 8, 250, 600)}
    unpaced = {"meshtrio": Figure(1000, 5, 8), "other": Figure(250, 5, 8)}
    text = table({"paced, 1,000/s": paced, "client stream": unpaced})
    assert "| other | 1,000 | 250 µs | 600 µs | 2.50 × | 5 µs | 8 µs |" in text
    assert "| other | 250 | 4,000 | 4.00 × | 5 µs | 8 µs |" in text
    assert "Left out: floor (" in text


def test_metadata_has_two_kilobytes_and_a_new_request_id() -> None:
    first, second = call_metadata(), call_metadata()
    assert 1900 <= sum(len(key) + len(value) for key, value in first) <= 2150
    assert first[:-1] == second[:-1]
    assert first[-1] != second[-1]


@pytest.mark.long
def test_a_short_run_has_figures_of_all_peers() -> None:
    cases = ["stream by generator", "client stream", "server stream", "unary with deadline"]
    cases += ["unary with 2 KB metadata", "paced, 1,000/s", "100 idle connections"]
    cases += ["TLS unary, 1 in flight"]
    command = [sys.executable, "-m", "tests.benchmarks.rpc", "--json", "--rounds", "1"]
    command += ["--seconds", "0.1", "--peers", "meshtrio,grpc.aio", "--cases", ";".join(cases)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    assert list(found) == cases
    for by_peer in found.values():
        assert list(by_peer) == ["meshtrio", "grpc.aio"]
        for figure in by_peer.values():
            assert min(figure.values()) > 0
    paced = found["paced, 1,000/s"]["meshtrio"]
    assert paced["latency_median"] <= paced["latency_p99"]
