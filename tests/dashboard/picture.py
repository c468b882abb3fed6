"""Make the picture of the README: `python -m tests.dashboard.picture [docs/images/dashboard.png]`.

It shows the timeline of a mesh in trouble, and how one of its processes ended. Needs Chromium.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

from tests import ROOT
from tests.support.browsers import run_chromium, viewing
from tests.support.troubled_mesh import serve_troubled_mesh

PICTURE = ROOT / "docs" / "images" / "dashboard.png"
SIZE = {"width": 1280, "height": 800}
SECONDS = 25.0
"""After which there is something to see in the timeline."""


def main() -> None:
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURE
    path.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        with serve_troubled_mesh(Path(folder), control=True) as shop, run_chromium() as browser:
            time.sleep(SECONDS)
            cookie = shop.log_in()
            oldest = shop.get_json("history", cookie)["oldest"]
            life = shop.get_json("history?names=mailer", cookie)["lives"][-1]
            span = round((time.time() - oldest) * 1.1) + 5
            view = ("timeline", f"?span={span}&life={life['id']}")
            with viewing(browser, shop, view, viewport=SIZE) as viewer:
                viewer.page.get_by_role("complementary").get_by_text("Last lines").wait_for()
                viewer.page.screenshot(path=path, animations="disabled")
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
