"""Modules of an echo plugin that take a second to import."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples" / "echo-plugin"))
import echo.v1.echo_grpc  # noqa: F401

time.sleep(1.0)
