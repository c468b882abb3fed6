"""A minute of `python -m tests.soak`; the hour is a command of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import ROOT
from tests.soak.usage import find_trend

_SEED = "16"
_TIMEOUT = 900
"""Seconds; a slow machine takes its time to start and to settle."""


@pytest.mark.long
@pytest.mark.timeout(_TIMEOUT + 60)
def test_a_minute_of_every_fault_leaves_everything_as_it_was() -> None:
    command = [sys.executable, "-m", "tests.soak", "--minutes", "1", "--seed", _SEED, "--json"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=_TIMEOUT, check=False
    )
    assert done.stdout, done.stderr
    findings = json.loads(done.stdout)
    names = ("seed", "lost", "doubled", "wrong", "standstills", "skipped")
    assert findings["good"], {name: findings[name] for name in names}
    assert findings["faults"]
    assert sum(findings["calls"].values()) > 100


def test_memory_that_grows_on_is_found() -> None:
    plateau = [50.0 + min(number, 200) / 2 for number in range(720)]
    assert find_trend(plateau) == []
    growing = [memory + number / 10 for number, memory in enumerate(plateau)]
    assert find_trend(growing) == [
        "memory of the mesh grows: 180 MiB after a third of the run, 216 at its end"
    ]
    assert find_trend(growing[:100]) == []


def test_every_class_of_fault_is_in_the_table() -> None:
    command = [sys.executable, "-m", "tests.soak", "--list", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert {number for _, number in json.loads(done.stdout)} == {0, 1, 2, 3, 4, 5}
