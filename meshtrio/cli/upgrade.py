"""`meshtrio upgrade`: have a mesh execute its new code, with its plugins left running."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import click
import purerpc
import trio

from meshtrio.cli.json_output import print_json
from meshtrio.cli.mesh_client import run_with_control
from meshtrio.cli.options import mesh_options, timeout_option
from meshtrio.cli.stdio import show_spinner
from meshtrio.messages import control as messages
from meshtrio.util.concurrency import run_during
from meshtrio.util.text import escape_unprintable

_POLL_INTERVAL = 0.1
_MAX_FAILURES = 20
"""Number of failed calls in a row after which the mesh is gone."""


@click.command()
@mesh_options("Print the result as one JSON object.", timeout_option)
def upgrade(as_json: bool, timeout: float | None, mesh_socket: Path | None) -> None:
    """Have the mesh execute its new code, and read its config again, in its own process.

    Plugins keep running, and calls to them go on. The new code and the config are checked before:
    if the new program cannot take over, nothing changes, and this fails with the reason. Only a
    mesh that `meshtrio serve` runs can be upgraded.
    """
    try:
        wait = math.inf if timeout is None else timeout
        before, after = run_with_control(_upgrade, mesh_socket, wait)
    except trio.TooSlowError:
        text = f"the upgrade took longer than {timeout:g} s; the mesh continues with it"
        raise click.ClickException(text) from None
    if after.failures != before.failures:
        raise click.ClickException(
            escape_unprintable(
                f"the upgrade has failed: {after.problem}; the mesh goes on as before"
            )
        )
    if as_json:
        print_json({"before": before, "after": after})
    else:
        text = f"upgraded from {before.version} to {after.version}"
        if before.version == after.version:
            text = f"upgraded; the version is still {after.version}"
        print(escape_unprintable(f"{text}; the plugins have kept running"))


async def _upgrade(stub: Any) -> tuple[Any, Any]:
    """Upgrade, and return the executions before and after."""
    async with run_during(show_spinner, "upgrading the mesh"):
        reply = await stub.Upgrade(messages.UpgradeRequest())
        before, failures = reply.execution, 0
        while True:
            try:
                after = await stub.GetExecution(messages.GetExecutionRequest())
            except purerpc.UnavailableError:
                # The upgrade has cut the call. Connections are refused only if the mesh is gone.
                failures += 1
                if failures > _MAX_FAILURES:
                    raise
            else:
                failures = 0
                if (after.number, after.failures) != (before.number, before.failures):
                    return before, after
            await trio.sleep(_POLL_INTERVAL)
