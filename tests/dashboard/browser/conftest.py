"""Chromium, and where its pictures go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.browsers import run_chromium


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The browser, for the tests of one file; see tests/support/browsers.py."""
    with run_chromium() as browser:
        yield browser


@pytest.fixture(scope="session")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of MESHTRIO_SCREENSHOTS, else one that pytest removes after a few runs."""
    given = os.environ.get("MESHTRIO_SCREENSHOTS")
    folder = Path(given) if given else tmp_path_factory.mktemp("screenshots")
    print(f"pictures of the dashboard are in {folder}")
    return folder
