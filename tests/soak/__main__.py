"""`python -m tests.soak [--minutes 60] [--seed S] [--json] [--only FAULT] [--without FAULT]`.

`--list` tells the faults and their classes.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from random import Random

import trio

from tests.soak.faults import FAULTS
from tests.soak.run import Findings, Soak, to_json

for _module in ("supervision", "inputs", "blocking", "identity", "overload", "totals"):
    import_module(f"tests.soak.faults.{_module}")
_SHOWN = 20
"""Of each list, without --json."""


def main() -> int:
    parser = argparse.ArgumentParser(description="A mesh under every fault at once.")
    parser.add_argument("--minutes", type=float, default=60.0, help="of faults")
    parser.add_argument("--seed", type=int, default=None, help="draws the same faults again")
    parser.add_argument("--json", action="store_true", help="the findings, on stdout")
    parser.add_argument("--only", action="append", choices=FAULTS, help="may be repeated")
    parser.add_argument("--without", action="append", choices=FAULTS, default=[])
    parser.add_argument("--list", action="store_true", help="the faults and their classes")
    parser.add_argument("--keep", type=Path, help="copy the mesh's log there")
    options = parser.parse_args()
    if options.list:
        found = [(each.name, each.issue_class) for each in FAULTS.values()]
        lines = [f"{name}: class {number}" for name, number in found]
        print(json.dumps(found) if options.json else "\n".join(lines))
        return 0
    # So that everything is ended by this, too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seed = Random().randrange(10**6) if options.seed is None else options.seed
    names = [name for name in options.only or FAULTS if name not in options.without]
    faults = [FAULTS[name] for name in names]
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        soak = Soak(options.minutes * 60, seed, Path(folder), faults)
        findings = trio.run(soak.run)
        if options.keep is not None:
            shutil.copy(Path(folder) / "log", options.keep)
    if options.json:
        print(json.dumps(to_json(findings), indent=2))
    else:
        show(findings)
    return 0 if findings.good else 1


def show(findings: Findings) -> None:
    """Print the findings for people."""
    print(f"seed {findings.seed}, {findings.seconds:.0f} s")
    print("faults:", ", ".join(f"{n} {name}" for name, n in sorted(findings.faults.items())))
    print("calls:", ", ".join(f"{n} {name}" for name, n in sorted(findings.calls.items())))
    for name, then in findings.before.items():
        now = findings.after.get(name)
        later = f"{now.memory:.0f} MiB, {now.descriptors}" if now else "nothing"
        print(f"{name}: {then.memory:.0f} MiB, {then.descriptors} descriptors; now {later}")
    print(f"longest standstill of the mesh: {findings.longest_standstill:.3f} s")
    for each in findings.standstills[:_SHOWN]:
        print(f"STANDSTILL of {each['seconds']:.2f} s:\n{each['stack']}")
    for name in ("lost", "doubled", "wrong"):
        texts = getattr(findings, name)
        print(f"{name}: {len(texts)}", *texts[:_SHOWN], sep="\n  ")
    for text in findings.skipped:
        print("skipped:", text)
    print("good" if findings.good else "NOT GOOD")


if __name__ == "__main__":
    sys.exit(main())
