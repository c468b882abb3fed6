"""CPU instructions per call and per message, counted under valgrind.

python -m tests.benchmarks.instructions [--cases "a; b"] [--before REV] [--json]
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
from tests.benchmarks.instructions.measure import Count, measure_all
from tests.benchmarks.revisions import extract_revision
from tests.benchmarks.rpc import parse_choice

NOW, BEFORE = "now", "before"


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--cases", default="; ".join(CASES), help="by ';'")
    parser.add_argument("--before", metavar="REV", help="a revision to measure, too")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    cases = parse_choice(options.cases, ";", list(CASES))
    require_valgrind()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        trees = {NOW: ROOT}
        if options.before:
            trees[BEFORE] = extract_revision(options.before, Path(folder))
        results = measure_all(cases, trees, lambda text: print(text, file=sys.stderr))
    as_json = {t: {c: attrs.asdict(n) for c, n in r.items()} for t, r in results.items()}
    print(json.dumps(as_json, indent=2) if options.json else table(results))


if __name__ == "__main__":
    main()
