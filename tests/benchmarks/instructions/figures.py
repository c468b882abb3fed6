"""Figures that are checked in, and whether new ones have grown."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import attrs

FIGURES_FILE = Path(__file__).parent / "figures.json"
MAX_GROWTH = 1.1
"""Ratio of a figure to the one checked in above which the check fails."""
LIBRARIES = ("trio", "protobuf", "purerpc", "attrs")


@attrs.frozen
class Count:
    """Instructions per operation, by process."""

    client: int
    server: int
    gateway: int = 0

    @property
    def total(self) -> int:
        return self.client + self.server + self.gateway


@attrs.frozen
class Figures:
    """The counts of cases, and what else they depend on."""

    versions: Mapping[str, str]
    """Versions of Python, valgrind and libraries, by name."""
    counts: Mapping[str, Count]
    """The counts, by case."""

    def to_json(self) -> str:
        return json.dumps(attrs.asdict(self), indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Figures:
        """Parse what `to_json` has returned. Raises ValueError, KeyError or TypeError."""
        found = json.loads(text)
        counts = {case: Count(**count) for case, count in found["counts"].items()}
        return cls(found["versions"], counts)


def find_versions(valgrind: str) -> dict[str, str]:
    """Return the versions on which counts depend, given that of valgrind."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    machine = {"python": python, "machine": platform.machine(), "valgrind": valgrind}
    return machine | {name: version(name) for name in LIBRARIES}


def check_figures(now: Figures, file: Path, report: Callable[[str], None]) -> bool:
    """Report how figures compare with those in a file; return whether none has grown too much.

    Figures of other versions are not compared.
    """
    if not file.exists():
        report(f"FAILED: there is no {file}; --write makes it")
        return False
    recorded = Figures.from_json(file.read_text())
    differences = find_version_differences(now, recorded)
    if differences:
        report(f"not compared with {file.name}: {'; '.join(differences)}")
        return True
    grown = find_growth(now, recorded)
    if grown:
        report(f"FAILED: more than {MAX_GROWTH - 1:.0%} above {file.name}:")
        report("\n".join(f"- {line}" for line in grown))
        report("If that is intended, record the new figures with --write.")
        return False
    report(f"no figure is more than {MAX_GROWTH - 1:.0%} above {file.name}")
    return True


def find_version_differences(now: Figures, recorded: Figures) -> list[str]:
    """Describe the versions that differ."""
    names = sorted({*now.versions, *recorded.versions})
    return [
        f"{name} {now.versions.get(name, 'none')} instead of {recorded.versions.get(name, 'none')}"
        for name in names
        if now.versions.get(name) != recorded.versions.get(name)
    ]


def find_growth(now: Figures, recorded: Figures) -> list[str]:
    """Describe the cases whose counts, of all processes together, have grown too much.

    A case that is not recorded counts as one, as it would never be compared.
    """
    found = []
    for case, count in now.counts.items():
        before = recorded.counts.get(case)
        if before is None:
            found.append(f"{case}: no figure is recorded")
        elif count.total > before.total * MAX_GROWTH:
            growth = count.total / before.total - 1
            found.append(f"{case}: {before.total:,} -> {count.total:,} (+{growth:.0%})")
    return found
