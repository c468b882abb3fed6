"""The RPC benchmark: every peer in the same run, client and server in processes of their own.

    python -m tests.benchmarks.rpc [--rounds N] [--seconds S] [--peers a,b] [--cases a;b] [--json]
                                   [--before REV]

Peers take turns within each round, so that what else the machine does meets all of them. Figures
are medians over the rounds; ratios are to meshtrio's in the same table. `--before` adds meshtrio as
it was at a revision, in all cases: this benchmark then runs on the `meshtrio` of that revision,
which must have the modules that `peers/on_trio.py` imports.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path

import attrs

from tests.benchmarks.cases import CASES
from tests.benchmarks.grpc_go import PROGRAM
from tests.benchmarks.peers import PEERS
from tests.benchmarks.peers.base import make_tls_files
from tests.benchmarks.processes import BEFORE, Figure, checkouts, measure, start_server
from tests.benchmarks.report import Results, median_figure, report, table, to_json
from tests.benchmarks.revisions import extract_revision


def measure_all(peers: list[str], cases: list[str], rounds: int, seconds: float) -> Results:
    """Medians by case and peer."""
    figures: dict[str, dict[str, list[Figure]]] = {case: {} for case in cases}
    taking_part = {case: [p for p in peers if p not in CASES[case].left_out] for case in cases}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        servers = {}
        for tls in {CASES[case].tls for case in cases}:
            if tls:
                make_tls_files(folder)
            for name in peers:
                if any(CASES[c].tls == tls and name in taking_part[c] for c in cases):
                    server = start_server(name, folder, folder if tls else None)
                    servers[name, tls] = stack.enter_context(server)
        for number in range(rounds):
            for case in cases:
                for name in taking_part[case]:
                    report(f"round {number + 1}/{rounds}: {case}: {name}")
                    figure = measure(servers[name, CASES[case].tls], case, seconds)
                    figures[case].setdefault(name, []).append(figure)
    return {
        case: {name: median_figure(runs) for name, runs in by_peer.items()}
        for case, by_peer in figures.items()
    }


def available_peers(peers: list[str]) -> list[str]:
    """Without grpc-go where nobody has built it, saying so."""
    if "grpc-go" in peers and not PROGRAM.exists():
        print("without grpc-go: python -m tests.benchmarks.grpc_go builds it", file=sys.stderr)
        return [name for name in peers if name != "grpc-go"]
    return peers


def parse_choice(text: str, separator: str, known: list[str]) -> list[str]:
    """Names that were asked for. Raises SystemExit for one that there is not."""
    names = [name.strip() for name in text.split(separator)]
    for name in names:
        if name not in known:
            there = f"{separator} ".join(known)
            raise SystemExit(f"{name!r} is none of {there}")
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--cases", default="; ".join(CASES), help="by ';'")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--before", metavar="REV", help="a revision to measure, too")
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--plugin", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plugin:
        PEERS["meshtrio"].serve(os.environ["PLUGIN_SOCKET"])
    elif options.serve:
        PEERS[options.serve[0]].serve(options.serve[1])
    elif options.client:
        name, case, address, seconds = options.client
        done = CASES[case].run(PEERS[name], address, float(seconds))
        print(json.dumps(attrs.asdict(done)), flush=True)
    else:
        cases = parse_choice(options.cases, ";", list(CASES))
        peers = available_peers(parse_choice(options.peers, ",", list(PEERS)))
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            if options.before:
                checkouts[BEFORE] = extract_revision(options.before, Path(folder), "meshtrio")
                peers.insert(1, BEFORE)
            results = measure_all(peers, cases, options.rounds, options.seconds)
        print(json.dumps(to_json(results), indent=2) if options.json else table(results))


if __name__ == "__main__":
    main()
