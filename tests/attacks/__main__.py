"""`python -m tests.attacks [--json] [--only NAME]... [--before PATH] [--seconds 5]`.

Prints what each attack costs as a Markdown table. With `--before`, the path of another checkout
that has an environment in `.venv`, each attack is measured on that one, too.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import attrs

from tests.attacks.cases import CASES
from tests.attacks.measure import AttackCost, Latency, measure

_HEAD = (
    "attack",
    "mesh MiB (start, peak, after)",
    "plugin MiB (start, peak, after)",
    "bystander ms during (p50, p99, max)",
    "after (p50, p99, max)",
    "new channel ms (p50, max)",
    "failed calls",
    "bystander CPU",
)


def row(name: str, cost: AttackCost) -> str:
    """Return a line of the table."""
    failed = f"{cost.during.failed} / {cost.after.failed} / {cost.new_channels.failed}"
    cells = [
        name if cost.mesh_alive else f"{name} (**the mesh ended**)",
        f"{cost.mesh_start:.0f}, **{cost.mesh_peak:.0f}**, {cost.mesh_after:.0f}",
        f"{cost.plugin_start:.0f}, **{cost.plugin_peak:.0f}**, {cost.plugin_after:.0f}",
        _times(cost.during),
        _times(cost.after),
        f"{cost.new_channels.p50:.1f}, {cost.new_channels.longest:.0f}",
        failed,
        f"{cost.bystander_cpu:.0%}",
    ]
    return "| " + " | ".join(cells) + " |"


def _times(latency: Latency) -> str:
    return f"{latency.p50:.1f}, {latency.p99:.0f}, **{latency.longest:.0f}**"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--json", action="store_true", help="one object for each attack")
    parser.add_argument("--only", action="append", choices=CASES, help="may be repeated")
    parser.add_argument("--before", type=Path, help="another checkout, with a .venv")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each attack")
    options = parser.parse_args()
    pythons = {"": sys.executable}
    if options.before is not None:
        before = options.before.resolve() / ".venv" / "bin" / "python"
        pythons = {", before": str(before), ", after": sys.executable}
    if not options.json:
        print("| " + " | ".join(_HEAD) + " |\n|" + " --- |" * len(_HEAD), flush=True)
    for name in options.only or CASES:
        for which, python in pythons.items():
            cost = measure(CASES[name], python, options.seconds)
            if options.json:
                found = {"attack": name, "which": which.strip(", "), **attrs.asdict(cost)}
                print(json.dumps(found), flush=True)
            else:
                print(row(CASES[name].description + which, cost), flush=True)


if __name__ == "__main__":
    main()
