"""Make the picture of the README: `python -m tests.dashboard.picture [docs/images/dashboard.png]`.

It shows a mesh in trouble, after some seconds of calls. Needs Debian's Chromium.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests import ROOT
from tests.support.browsers import run_chromium, viewing
from tests.support.troubled_mesh import serve_troubled_mesh

PICTURE = ROOT / "docs" / "images" / "dashboard.png"
SIZE = {"width": 1280, "height": 800}
SECONDS = 20.0
"""After which there is something to see in the charts."""
VIEW = "timeline"


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with serve_troubled_mesh(Path(folder), control=True) as shop, run_chromium() as browser:
            with viewing(browser, shop, (VIEW,), viewport=SIZE) as viewer:
                viewer.page.wait_for_timeout(SECONDS * 1000)
                viewer.page.screenshot(path=path, animations="disabled")
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
