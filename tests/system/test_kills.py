"""A short run of `python -m tests.kills`; the one of 100,000 calls is a command of its own."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import ROOT


@pytest.mark.long
def test_no_call_is_lost_or_made_twice_while_instances_die() -> None:
    command = [sys.executable, "-m", "tests.kills", "--calls", "10000", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["killed"] >= 3
