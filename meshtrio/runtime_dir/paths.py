"""The paths by which clients find a mesh; apart from `directory`, which imports all of `config`."""

from __future__ import annotations

import os
from pathlib import Path


def default_runtime_dir() -> Path:
    """Return `$XDG_RUNTIME_DIR/meshtrio`, or `/tmp/meshtrio-<uid>` if that is not set."""
    base = os.environ.get("XDG_RUNTIME_DIR")
    return Path(base) / "meshtrio" if base else Path(f"/tmp/meshtrio-{os.getuid()}")  # noqa: S108


def dashboard_url_path(runtime_dir: Path) -> Path:
    """Return the path of the file with the URL of the dashboard, which is there while one runs."""
    return runtime_dir / "dashboard.url"


def dashboard_token_path(runtime_dir: Path) -> Path:
    """Return the path of the file with the dashboard's token, which outlives a mesh."""
    return runtime_dir / "dashboard.token"


def mesh_socket_path(runtime_dir: Path) -> Path:
    """Return the path of the mesh socket."""
    return runtime_dir / "mesh.sock"
