"""What every test has: a guard against hanging, and short folders for sockets."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401 - see below
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from meshtrio.supervisor.process.spawn.signal_dispositions import (
    default_signals_in_children,
)

# A TracerProvider of OpenTelemetry's SDK starts an executor in each forked child. Its hook is run
# after that of concurrent.futures.thread, which makes this possible, only if that was imported
# first. Otherwise tests that fork hang.

pytest.register_assert_rewrite("tests.support")

from tests.support import hang_guard
from tests.support.polling import polling_everywhere, sleeping_and_polling  # noqa: F401

# A shell that runs the tests in the background has SIGINT ignored. What tests start would inherit
# that, and no Ctrl-C would end it. Entered until the end of the process.
_dispositions = default_signals_in_children()
_dispositions.__enter__()
settings.register_profile(
    "repeatable",
    # Says nothing about the speed of the machine, and tries the same examples in each run.
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore", settings.get_profile("repeatable"), derandomize=False, print_blob=True
)
# `HYPOTHESIS_PROFILE=explore` tries examples that no run has tried before.
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(hang_guard.guard)


@pytest.fixture
def short_dir() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name within 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="mt-") as name:
        yield Path(name)
