"""A short run of meshes on several hosts, with faults of everything."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests import ROOT
from tests.support.network_namespaces import make_network


@pytest.mark.long
@pytest.mark.timeout(400)
def test_calls_between_hosts_survive_faults_of_everything() -> None:
    with make_network(1):
        pass  # Skips where there are none.
    command = [sys.executable, "-m", "tests.several_hosts", "--seconds", "60"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-3000:]}"
