"""A short run of `python -m tests.deadline_storm`; the one of 20 s is a command of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import ROOT


@pytest.mark.long
def test_deadlines_are_no_attack_and_rapid_resets_are() -> None:
    command = [sys.executable, "-m", "tests.deadline_storm", "--seconds", "5", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for way, found in json.loads(done.stdout).items():
        assert found["timed_out"] > 1000, way
