"""`meshtrio attach` and `env`: run a plugin by hand, in the place of an instance."""

from __future__ import annotations

import errno
import os
import re
import shlex
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
import purerpc
import trio

from meshtrio.cli.foreground_process import ForegroundProcess, ProcessSettings
from meshtrio.cli.json_output import print_json, writes_utf8
from meshtrio.cli.mesh_client import run_with_control
from meshtrio.cli.options import instance_argument, mesh_options, mesh_socket_option
from meshtrio.cli.stdio import show_spinner
from meshtrio.messages import control
from meshtrio.util.concurrency import open_collapsing_nursery, run_during
from meshtrio.util.text import escape_unprintable, replace_surrogates

_SHELL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NOT_FOUND_STATUS, _NOT_EXECUTABLE_STATUS = 127, 126
"""The exit statuses of a shell for a command that it cannot execute."""


@click.command()
@instance_argument
@mesh_options("Print one JSON object: name, instance, variables.")
def env(instance: tuple[str, int], as_json: bool, mesh_socket: Path | None) -> None:
    """Print the environment of an instance's process as NAME=VALUE lines, quoted for a shell.

    INSTANCE is NAME/N, or NAME for its instance 0. Restricted to the mesh's own user and root, as
    variables may be secrets. The marks by which the mesh finds and kills the processes of a plugin
    (MESH_ID, MESH_LAUNCH_ID, MESH_PIDFD) are left out. With its PLUGIN_SOCKET, a second process
    would take the place of the running one unsupervised; `attach` does it in order.
    """
    name, number = instance
    request = control.GetEnvironmentRequest(name=name, instance=number)
    reply = run_with_control(lambda stub: stub.GetEnvironment(request), mesh_socket)
    variables = _decode_environment(reply.variables)
    if as_json:
        shown = {replace_surrogates(k): replace_surrogates(v) for k, v in variables.items()}
        print_json({"name": name, "instance": number, "variables": shown})
        return
    for key, value in variables.items():
        if _SHELL_NAME.fullmatch(key):
            print(f"{key}={quote_for_shell(value, ascii_only=not writes_utf8())}")
        else:
            text = f"meshtrio: left out, as a shell cannot set it: {key}"
            print(escape_unprintable(text), file=sys.stderr)


def quote_for_shell(value: str, *, ascii_only: bool = False) -> str:
    """Quote a word for a shell.

    Unprintable characters, and with `ascii_only` others than ASCII, are escaped as in $'...'
    (POSIX.1-2024).
    """

    def is_plain(text: str) -> bool:
        return escape_unprintable(text) == text and (text.isascii() or not ascii_only)

    if is_plain(value):
        return shlex.quote(value)
    quoted = []
    for character in value:
        if character in "\\'":
            quoted.append(f"\\{character}")
        elif is_plain(character):
            quoted.append(character)
        else:
            quoted += [f"\\{byte:03o}" for byte in os.fsencode(character)]
    return f"$'{''.join(quoted)}'"


def _decode_environment(variables: Sequence[bytes]) -> dict[str, str]:
    return dict(os.fsdecode(each).split("=", 1) for each in variables)


@click.command()
@instance_argument
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@mesh_socket_option
def attach(instance: tuple[str, int], command: tuple[str, ...], mesh_socket: Path | None) -> None:
    """Run COMMAND in this terminal in the place of an instance; by default the plugin's own.

    INSTANCE is NAME/N, or NAME for its instance 0. It is stopped, as by `stop`, and COMMAND gets
    its environment and working directory. While COMMAND serves at PLUGIN_SOCKET or PLUGIN_LISTEN,
    callers reach it as the instance. When it ends, or this command does for any reason, all that it
    has started is killed, and the instance is started again unless it was stopped before.

    \b
    meshtrio attach echo/0 -- python -m pdb plugin.py

    The exit status is that of COMMAND. Limits of the plugin's `containment` do not apply to it.
    """
    name, number = instance
    request = control.AttachRequest(name=name, instance=number)

    async def run(stub: Any) -> int:
        return await _Session(command).run(stub, request)

    raise click.exceptions.Exit(run_with_control(run, mesh_socket))


class _Session:
    """One attachment to an instance, from the request to the end of the command."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._is_stopping = False

    async def run(self, stub: Any, request: Any) -> int:
        """Run the command once the mesh has stopped the instance; return its exit status."""
        async with stub.Attach(request) as call:
            async with run_during(show_spinner, f"stopping {request.name}/{request.instance}"):
                update = await call.receive_message()
            with trio.open_signal_receiver(*_signals()) as signals:
                process = self._start(update.process)
                try:
                    await self._wait(process, signals, call, update.process.stop_timeout)
                finally:
                    process.kill()
            return process.status

    def _start(self, details: Any) -> ForegroundProcess:
        variables = _decode_environment(details.variables)
        if "TERM" in os.environ:  # that of this terminal
            variables["TERM"] = os.environ["TERM"]
        command = self._command or [os.fsdecode(word) for word in details.command]
        settings = ProcessSettings(
            command=command,
            environment=variables,
            directory=os.fsdecode(details.directory),
            user_id=details.user_id,
            group_id=details.group_id,
        )
        try:
            return ForegroundProcess(settings)
        except OSError as exc:
            what = exc.filename if isinstance(exc.filename, str) else command[0]
            text = f"meshtrio: cannot run {what}: {exc.strerror}"
            print(escape_unprintable(text), file=sys.stderr)
            is_absent = exc.errno == errno.ENOENT
            status = _NOT_FOUND_STATUS if is_absent else _NOT_EXECUTABLE_STATUS
            raise click.exceptions.Exit(status) from None

    async def _wait(
        self,
        process: ForegroundProcess,
        signals: AsyncIterator[int],
        call: Any,
        stop_timeout: float,
    ) -> None:
        """Wait until the process has ended, which signals and the mesh may ask for."""
        async with open_collapsing_nursery() as nursery:

            def stop(reason: str) -> None:
                if not self._is_stopping:
                    self._is_stopping = True
                    with suppress(OSError):  # The terminal may be closed.
                        text = f"meshtrio: {reason}; stopping the command"
                        print(escape_unprintable(text), file=sys.stderr, flush=True)
                    nursery.start_soon(process.terminate, stop_timeout)

            async def watch_call() -> None:
                try:
                    update = await call.receive_message()
                    reason = update.stop_reason if update is not None else "the mesh ended the call"
                except purerpc.RpcFailedError as exc:
                    reason = f"the mesh is gone: {exc.status.status_message}"
                stop(reason)

            nursery.start_soon(watch_call)
            async for number in signals:
                if number == signal.SIGINT:
                    process.send_signal(number)  # Not by the terminal, whose foreground it is.
                elif number != signal.SIGCHLD:
                    stop(f"received {signal.Signals(number).name}")
                elif process.has_ended():
                    break
            nursery.cancel_scope.cancel()


def _signals() -> list[signal.Signals]:
    numbers = [signal.SIGCHLD, signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers
