"""The supervision benchmark: meshtrio, its floors and its peers in one run.

    python -m tests.benchmarks.supervision [--rounds N] [--idle S] [--json]

Peers take turns within each round; figures are medians. Our code is byte-compiled first, as pip
does for what it installs. supervisord and circus say nothing of readiness: there, and for the bare
floor, a plugin is up when its socket accepts; in a mesh, when it has answered its health check.
"""

from __future__ import annotations

import argparse
import compileall
import json
import os
import statistics
import sys
from collections import defaultdict

from tests import ROOT
from tests.benchmarks.supervision import cases
from tests.benchmarks.supervision.fleet import (
    FORKED_PLUGIN,
    PYTHON_PLUGIN,
    SLOW_IMPORT_PLUGIN,
)
from tests.benchmarks.supervision.supervisors import SUPERVISORS
from tests.support.mesh_processes import ECHO_PLUGIN_DIRECTORY

Figures = dict[str, dict[str, float]]
MANAGED = {name: s for name, s in SUPERVISORS.items() if name != "bare Popen"}


def report(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\x1b[2K{text}", end="\r", file=sys.stderr, flush=True)


def measure(rounds: int, idle: float) -> Figures:
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for number in range(rounds):
        for name, supervisor in SUPERVISORS.items():
            report(f"round {number + 1}/{rounds}: 50 plugins: {name}")
            found["50 plugins up, s"][name].append(cases.measure_start(supervisor, 50))
        report(f"round {number + 1}/{rounds}: 50 plugins: forked")
        forked = cases.measure_start(SUPERVISORS["meshtrio"], 50, FORKED_PLUGIN)
        found["50 plugins up, s"]["meshtrio, by fork"].append(forked)
    for kind, suffix in ((PYTHON_PLUGIN, ""), (FORKED_PLUGIN, ", by fork")):
        for figures in cases.measure_restarts(5 * rounds, kind):
            report(f"one plugin, killed and started again{suffix}")
            for name, seconds in figures.items():
                found["one plugin, ms"][f"{name}{suffix}"].append(seconds * 1e3)
        report(f"memory of a plugin{suffix}")
        private, proportional = cases.measure_pages(kind)
        found["memory of an idle plugin, KB"][f"private{suffix}"].append(private / 1024)
        found["memory of an idle plugin, KB"][f"PSS{suffix}"].append(proportional / 1024)
    report("one plugin that imports for 1 s, killed and started again, by fork")
    for figures in cases.measure_restarts(5 * rounds, SLOW_IMPORT_PLUGIN):
        name = "spawn to ready, by fork, after imports of 1 s"
        found["one plugin, ms"][name].append(figures["spawn to ready"] * 1e3)
    for number in range(rounds):
        for name in ("supervisord", "circus"):
            report(f"round {number + 1}/{rounds}: kill to up: {name}")
            seconds = cases.measure_recovery(SUPERVISORS[name])
            found["one plugin, ms"][f"{name}: kill to up"].append(seconds * 1e3)
    report("reaction to deaths")
    found["reaction to a death, ms"]["meshtrio"] = [
        s * 1e3 for s in cases.measure_reactions(20 * rounds)
    ]
    for name, supervisor in MANAGED.items():
        report(f"memory: {name}")
        found["memory for each plugin, KB"][name].append(cases.measure_memory(supervisor) / 1024)
        report(f"idle: {name}")
        found["idle CPU with 100 plugins, % of a core"][name].append(
            cases.measure_idle_cpu(supervisor, idle) * 100
        )
    return {
        case: {name: statistics.median(values) for name, values in by_name.items()}
        for case, by_name in found.items()
    }


def check_targets(figures: Figures) -> list[tuple[str, float, float]]:
    """What the targets are about: what, as measured, and the most it may be."""
    fifty, one = figures["50 plugins up, s"], figures["one plugin, ms"]
    pages = figures["memory of an idle plugin, KB"]
    return [
        ("50 plugins, against bare Popen", fifty["meshtrio"] / fifty["bare Popen"], 1.15),
        ("kill to ready, ms more than a cold start", one["kill to ready"] - one["bare"], 15),
        ("spawn to ready, against bare imports", one["spawn to ready"] / one["imports"], 1.15),
        ("by fork: spawn to ready, ms", one["spawn to ready, by fork"], 20),
        (
            "by fork: spawn to ready, of that by exec",
            one["spawn to ready, by fork"] / one["spawn to ready"],
            1 / 8,
        ),
        (
            "by fork: spawn to ready with imports of 1 s, ms",
            one["spawn to ready, by fork, after imports of 1 s"],
            25,
        ),
        ("by fork: kill to ready, ms", one["kill to ready, by fork"], 30),
        ("by fork: 50 plugins, of exec's", fifty["meshtrio, by fork"] / fifty["meshtrio"], 1 / 6),
        (
            "by fork: 50 plugins, of Popen's",
            fifty["meshtrio, by fork"] / fifty["bare Popen"],
            1 / 6,
        ),
        ("by fork: private memory, of exec's", pages["private, by fork"] / pages["private"], 1 / 3),
        ("by fork: PSS, of exec's", pages["PSS, by fork"] / pages["PSS"], 1 / 2),
        ("reaction to a death, ms", figures["reaction to a death, ms"]["meshtrio"], 2),
        ("memory for each plugin, KB", figures["memory for each plugin, KB"]["meshtrio"], 100),
        (
            "idle CPU with 100 plugins, % of a core",
            figures["idle CPU with 100 plugins, % of a core"]["meshtrio"],
            0.3,
        ),
    ]


def table(figures: Figures) -> str:
    lines = []
    for case, by_name in figures.items():
        lines += ["", f"### {case}", "", "| | |", "| --- | ---: |"]
        lines += [f"| {name} | {value:,.2f} |" for name, value in by_name.items()]
    lines += ["", "### Targets", "", "| | measured | at most |", "| --- | ---: | ---: |"]
    lines += [
        f"| {what} | {value:.2f} | {most:g} |" for what, value, most in check_targets(figures)
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--idle", type=float, default=30.0, help="seconds to watch idling for")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for folder in (ROOT / "meshtrio", ECHO_PLUGIN_DIRECTORY):
        compileall.compile_dir(folder, quiet=1)
    figures = measure(options.rounds, options.idle)
    print(json.dumps(figures, indent=2) if options.json else table(figures))


if __name__ == "__main__":
    main()
