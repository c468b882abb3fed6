"""`meshtrio dashboard`: the URL of the web dashboard."""

from __future__ import annotations

from pathlib import Path

import click

from meshtrio.cli.json_output import print_json
from meshtrio.cli.mesh_client import run_with_channel
from meshtrio.cli.options import mesh_options
from meshtrio.client.channel import Channel
from meshtrio.runtime_dir.paths import dashboard_url_path
from meshtrio.runtime_dir.trust import find_mesh_socket
from meshtrio.util.descriptors import read_regular_file
from meshtrio.util.errors import UsageError
from meshtrio.util.text import escape_unprintable

_MAX_URL_SIZE = 4096


@click.command()
@mesh_options("Print a JSON object with the URL.")
def dashboard(as_json: bool, mesh_socket: Path | None) -> None:
    """Print the URL of the web dashboard of a running mesh, with the token that opens it.

    The URL is that of a browser on the mesh's machine. Only the mesh's own user and root may read
    it. Who has the token may see all that the dashboard shows, and with `control = true` act.
    """

    async def return_at_once(_: Channel) -> None:
        """Do nothing: that the mesh answers was checked before."""

    run_with_channel(return_at_once, mesh_socket)
    url = _read_url((mesh_socket or find_mesh_socket()).parent)
    if as_json:
        print_json({"url": url})
    else:
        print(escape_unprintable(url))


def _read_url(runtime_dir: Path) -> str:
    path = dashboard_url_path(runtime_dir)
    try:
        return read_regular_file(path, _MAX_URL_SIZE).decode("utf-8", "replace")
    except FileNotFoundError:
        hint = "set listen in [mesh.dashboard], or use `meshtrio serve --dashboard HOST:PORT`"
        raise UsageError(f"this mesh has no dashboard; {hint}") from None
    except OSError as exc:
        raise UsageError(f"{path}: cannot be read: {exc.strerror}") from None
