"""CPU instructions per call and per message, counted under valgrind: they repeat, as times do not.

    python -m tests.benchmarks.instructions [--cases "a; b"] [--before REV] [--json]
                                            [--write] [--check]

Client, server and, in the cases of the gateway, the mesh are processes of their own under
callgrind. After a warm-up each case does its operations in three rounds; figures are the medians,
per call, or in streaming cases per message (there and back in bidirectional ones). Only
instructions outside of the kernel are counted. Clocks that time slices depend on are replaced, and
there is no busy polling; see `determinism`.

`--before` adds the code of a revision, by the benchmark of this one. `--write` records figures with
the versions of Python, valgrind and libraries in figures.json, and `--check` fails if one has grown
by more than 10 % since, provided that the versions are the same.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

import attrs

from tests import ROOT
from tests.benchmarks.instructions.callgrind import require_valgrind
from tests.benchmarks.instructions.cases import CASES
from tests.benchmarks.instructions.figures import (
    FIGURES_FILE,
    Count,
    Figures,
    check_figures,
    find_versions,
)
from tests.benchmarks.instructions.measure import measure_all
from tests.benchmarks.revisions import extract_revision
from tests.benchmarks.rpc import parse_choice

NOW, BEFORE = "now", "before"


def report(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def table(results: dict[str, dict[str, Count]]) -> str:
    """Return a Markdown table; a row for each case."""
    compared = BEFORE in results
    lines = ["| | client | server | gateway | all |" + " before | ratio |" * compared]
    lines += ["| --- | ---: | ---: | ---: | ---: |" + " ---: | ---: |" * compared]
    for name, count in results[NOW].items():
        gateway = f"{count.gateway:,}" if count.gateway else ""
        line = f"| {name} | {count.client:,} | {count.server:,} | {gateway} | {count.total:,} |"
        if compared:
            before = results[BEFORE][name].total
            line += f" {before:,} | {count.total / before:.2f} |"
        lines.append(line)
    return "\n".join(lines)


def measure(cases: list[str], revision: str | None) -> dict[str, dict[str, Count]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        trees = {NOW: ROOT}
        if revision:
            trees[BEFORE] = extract_revision(revision, Path(folder))
        return measure_all(cases, trees, report)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", default="; ".join(CASES), help="by ';'")
    parser.add_argument("--before", metavar="REV", help="a revision to measure, too")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="record the figures")
    parser.add_argument("--check", action="store_true", help="fail if recorded figures have grown")
    options = parser.parse_args()
    cases = parse_choice(options.cases, ";", list(CASES))
    if options.write and len(cases) < len(CASES):
        parser.error("--write records all cases; leave out --cases")
    valgrind = require_valgrind()
    results = measure(cases, options.before)
    as_json = {t: {c: attrs.asdict(n) for c, n in r.items()} for t, r in results.items()}
    print(json.dumps(as_json, indent=2) if options.json else table(results), flush=True)
    now = Figures(find_versions(valgrind), results[NOW])
    if options.write:
        FIGURES_FILE.write_text(now.to_json())
    if options.check and not check_figures(now, FIGURES_FILE, report):
        sys.exit(1)


if __name__ == "__main__":
    main()
