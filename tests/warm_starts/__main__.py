"""What forked plugins promise, many times over.

    python -m tests.warm_starts kills [--rounds 100] [--seed N]
    python -m tests.warm_starts restarts [--count 1000]

`kills` ends the mesh, its warden, its template, and combinations of them with SIGKILL at random
instants, and reports how long any process was left. `restarts` kills a forked plugin again and
again, and reports what the mesh and the template have kept.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from random import Random

import trio

from tests.warm_starts.kills import MAX_SECONDS_LEFT, VICTIMS, measure_kill
from tests.warm_starts.restarts import measure_restarts


def run_kills(rounds: int, seed: int) -> bool:
    print(f"seed {seed}")
    random, longest = Random(seed), dict.fromkeys(VICTIMS, 0.0)
    for number in range(rounds):
        if sys.stderr.isatty():
            print(f"round {number + 1}/{rounds}", end="\r", file=sys.stderr, flush=True)
        victims = VICTIMS[number % len(VICTIMS)]
        with tempfile.TemporaryDirectory(prefix="mt-") as folder:
            seconds = measure_kill(Path(folder), victims, random)
        longest[victims] = max(longest[victims], seconds)
    for victims, seconds in longest.items():
        print(f"{' and '.join(victims)} killed: everything gone within {seconds:.2f} s")
    return max(longest.values()) <= MAX_SECONDS_LEFT


def run_restarts(count: int) -> bool:
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        growth = trio.run(measure_restarts, Path(folder), count)
    for name, (before, after) in growth.items():
        print(f"{name}: {before:,} before, {after:,} after {count} restarts")
    return all(after <= before for before, after in growth.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    kills = commands.add_parser("kills")
    kills.add_argument("--rounds", type=int, default=100)
    kills.add_argument("--seed", type=int, default=None)
    commands.add_parser("restarts").add_argument("--count", type=int, default=1000)
    options = parser.parse_args()
    logging.getLogger("meshtrio").setLevel(logging.ERROR)  # Each kill is a warning.
    if options.command == "restarts":
        return 0 if run_restarts(options.count) else 1
    seed = Random().randrange(10**6) if options.seed is None else options.seed
    return 0 if run_kills(options.rounds, seed) else 1


if __name__ == "__main__":
    sys.exit(main())
