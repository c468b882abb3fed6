"""Earlier revisions of the project, to be measured in the same run as this one."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests import ROOT


def extract_revision(revision: str, folder: Path, *paths: str) -> Path:
    """Write a revision's files, or those below `paths`, to `folder/before`, and return that."""
    tree = folder / "before"
    tree.mkdir()
    command = ["git", "-C", str(ROOT), "archive", revision, *paths]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as archive:
        subprocess.run(["tar", "-x", "-C", str(tree)], stdin=archive.stdout, check=True)
    return tree
