"""Builds the peer once."""

import tempfile
from pathlib import Path

from tests.benchmarks.grpc_go import PROGRAM, build

with tempfile.TemporaryDirectory() as folder:
    build(Path(folder))
print(f"built {PROGRAM}")
