"""`meshtrio run`: run a task of a mesh, as if it were a command of this terminal."""

from __future__ import annotations

import codecs
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from meshtrio.cli.mesh_client import run_with_control
from meshtrio.cli.options import mesh_socket_option, task_argument
from meshtrio.cli.stdio import write_to_descriptor
from meshtrio.messages import control
from meshtrio.util.text import escape_unprintable

_NOT_STARTED_STATUS = 127
"""Exit status if the program could not be started, as in the shell."""


@click.command()
@task_argument
@mesh_socket_option
def run(name: str, mesh_socket: Path | None) -> None:
    """Run the task NAME now, and exit with its exit status.

    What it writes to stdout and stderr is written here, unchanged unless that is a terminal, where
    control characters are escaped. The exit status is 128 + N if signal N has killed it, and 127 if
    it could not be started. Ctrl-C stops it, as does the end of this command by any other cause. A
    failure is not repeated; `retries` is for the runs of the mesh.
    """
    result = run_with_control(partial(_run, name), mesh_socket)
    status = _exit_status(result)
    if result.outcome != "completed" and result.text != f"exited with status {status}":
        print(escape_unprintable(f"meshtrio: task {name} {result.text}"), file=sys.stderr)
    raise click.exceptions.Exit(status)


async def _run(name: str, stub: Any) -> control.TaskResult:
    out, err = _Output(sys.stdout.fileno()), _Output(sys.stderr.fileno())
    async with stub.RunTask(control.RunTaskRequest(name=name)) as messages:
        async for message in messages:
            if message.missed:
                await err.write(
                    f"meshtrio: {message.missed} bytes of output are missing\n".encode()
                )
            kind = message.WhichOneof("message")
            if kind == "result":
                return message.result  # type: ignore[no-any-return]
            await (out if kind == "stdout" else err).write(getattr(message, kind))
    raise click.ClickException(f"the mesh has not sent how {name} ended")


class _Output:
    """Writes to stdout or stderr; control characters are escaped on a terminal."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._is_terminal = os.isatty(descriptor)
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    async def write(self, data: bytes) -> None:
        if self._is_terminal:
            lines = self._decoder.decode(data).split("\n")
            data = "\n".join(map(escape_unprintable, lines)).encode(errors="backslashreplace")
        await write_to_descriptor(self._descriptor, data)


def _exit_status(result: control.TaskResult) -> int:
    if result.outcome == "completed":
        return 0
    if result.HasField("signal"):
        return 128 + result.signal
    if result.HasField("exit_status"):
        return result.exit_status or 1  # It was ended, for its timeout or on request.
    return _NOT_STARTED_STATUS
