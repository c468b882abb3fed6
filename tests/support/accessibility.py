"""What axe-core finds in a page."""

from __future__ import annotations

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

SEVERE = ("serious", "critical")


def find_faults(page: Page) -> list[str]:
    """Return the serious and critical faults, each with the elements that have it."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{violation['impact']}: {violation['id']}: {violation['help']}: {node['target']} "
        f"{node['html'][:200]} {node.get('failureSummary', '')}"
        for violation in violations
        if violation["impact"] in SEVERE
        for node in violation["nodes"]
    ]
