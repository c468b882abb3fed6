"""A short run of `python -m tests.chaos`; the minute-long one is a command of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import ROOT


@pytest.mark.long
def test_a_short_chaos_run_finds_nothing_wrong() -> None:
    command = [sys.executable, "-m", "tests.chaos", "--seconds", "10"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("0 wrong\n")
