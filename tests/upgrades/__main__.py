"""Upgrades during which processes are killed: `python -m tests.upgrades --seconds N [--seed S]`.

Each round kills the mesh, its warden, its template, a plugin, or two of them with SIGKILL at a
random instant of an upgrade. Either the old or the new mesh is complete afterwards, or everything
is gone.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from random import Random

from tests.upgrades.kills import VICTIMS, run_round


def run(seconds: float, seed: int) -> None:
    print(f"seed {seed}")
    random, results, number = Random(seed), Counter[tuple[str, str]](), 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        victims = VICTIMS[number % len(VICTIMS)]
        number += 1
        with tempfile.TemporaryDirectory(prefix="mt-") as folder:
            result = run_round(Path(folder), victims, random)
        results[" and ".join(victims), result] += 1
    for (victims_text, result), count in sorted(results.items()):
        print(f"{victims_text} killed: {result}, {count} times")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=None)
    options = parser.parse_args()
    seed = Random().randrange(10**6) if options.seed is None else options.seed
    run(options.seconds, seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
