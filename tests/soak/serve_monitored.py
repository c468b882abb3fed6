"""`meshtrio serve` with a watch on its event loop.

    python -m tests.soak.serve_monitored FOLDER ARGUMENT...

Standstills go to `FOLDER/standstills`, and counts of objects to `FOLDER/census`. A subscriber of
lifecycle events raises for as long as there is a file `FOLDER/raise`.
"""

from __future__ import annotations

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import trio

from meshtrio import cli, mesh
from tests.soak.census import start_census
from tests.soak.loop_monitor import LoopMonitor

RAISED = "a subscriber that raises"
_CHECK_INTERVAL = 0.2
"""Seconds between two looks for the file."""


class RaisingSubscriber:
    """Raises for every event, if it is told to."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._raises = False
        self._until = 0.0

    def __call__(self, event: object) -> None:
        now = time.monotonic()
        if now > self._until:
            self._raises, self._until = self._path.exists(), now + _CHECK_INTERVAL
        if self._raises:
            raise RuntimeError(RAISED)


def main() -> None:
    folder = Path(sys.argv[1])
    subscriber = RaisingSubscriber(folder / "raise")

    class SubscribedMesh(mesh.Mesh):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            self.subscribe(subscriber)

    setattr(mesh, "Mesh", SubscribedMesh)  # noqa: B010 - what `mesh.main` makes
    setattr(trio, "run", partial(trio.run, instruments=[LoopMonitor(folder / "standstills")]))  # noqa: B010
    start_census(folder / "census")
    sys.argv[1:] = sys.argv[2:]
    cli.main()


if __name__ == "__main__":
    main()
