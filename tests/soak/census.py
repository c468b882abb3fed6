"""What kinds of objects a process holds, written down at intervals: what to look at if it grows."""

from __future__ import annotations

import gc
import json
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

_INTERVAL = 300.0
"""Seconds between two counts, which hold Python's lock for about 0.05 s each."""
_MAX_KINDS = 60


def count_objects() -> dict[str, Any]:
    """Count the objects by type; none of them is kept alive by it."""
    kinds = Counter(
        f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.get_objects()
    )
    return {
        "blocks": sys.getallocatedblocks(),
        "objects": kinds.total(),
        "kinds": dict(kinds.most_common(_MAX_KINDS)),
    }


def start_census(path: Path) -> None:
    """Add a line of JSON to `path` now and at intervals, in a thread."""

    def run() -> None:
        while True:
            with path.open("a") as file:
                file.write(json.dumps({"time": time.time(), **count_objects()}) + "\n")
            time.sleep(_INTERVAL)

    threading.Thread(target=run, daemon=True, name="census").start()


def read_census(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
