"""Listening sockets that a process is started with, as sd_listen_fds(3) has them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from meshtrio.supervisor.process.spawn import launcher_main
from meshtrio.transport.inherited_listener import take_inherited_listener

TAKE = """
import os
from meshtrio.transport.inherited_listener import take_inherited_listener
from meshtrio.util.errors import UsageError
try:
    sock = take_inherited_listener()
except UsageError as exc:
    print(exc)
else:
    print(sock and (sock.fileno(), sock.getsockname(), sock.getblocking(), sock.get_inheritable()))
print(sorted(name for name in os.environ if name.startswith("LISTEN_")))
"""
NO_SETTINGS = {"cgroup": None, "rlimits": {}, "nice": None, "umask": None}


def take(
    descriptor: int, *, number: int | None = None, code: str = TAKE, **env: str
) -> tuple[str, str]:
    """Run the launcher with a socket, `number` in the child; return what the program prints."""
    settings: dict[str, object] = {**NO_SETTINGS, "user": None, "group": None, "listens": True}
    settings["descriptors"] = [[number or descriptor, 3]]
    command = [sys.executable, "-I", launcher_main.__file__, json.dumps(settings)]
    if number is not None:
        redirect = f'exec {number}<&{descriptor}; exec "$@"'
        command = ["bash", "-c", redirect, "bash", *command]
    done = subprocess.run(
        [*command, sys.executable, "-c", code],
        pass_fds=[descriptor],
        env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "p", **env},
        capture_output=True,
        text=True,
        check=True,
    )
    taken, variables = done.stdout.splitlines()
    return taken, variables


@pytest.mark.parametrize("number", [None, 3])
def test_the_launcher_passes_it_as_descriptor_3(short_dir: Path, number: int | None) -> None:
    path = str(short_dir / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        assert take(listener.fileno(), number=number) == (str((3, path, False, False)), "[]")


def test_a_tcp_socket(short_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        expected = str((3, listener.getsockname(), False, False))
        assert take(listener.fileno()) == (expected, "[]")


@pytest.mark.parametrize("count", ["2", "0", "", "x", "-1"])
def test_another_number_than_one_is_an_error(count: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        error, variables = take(listener.fileno(), LISTEN_FDS=count)
    assert error == f"LISTEN_FDS is {count!r}: a plugin serves on one inherited socket"
    assert variables == "[]"


def test_a_descriptor_that_is_no_listening_socket_is_an_error(short_dir: Path) -> None:
    with (short_dir / "file").open("w") as file:
        error, _ = take(file.fileno())
        assert error.startswith("LISTEN_FDS: descriptor 3 is not a socket")
    with socket.socket() as sock:
        error, _ = take(sock.fileno())
        assert error == "LISTEN_FDS: descriptor 3 is not a listening Unix or TCP socket"


def test_variables_for_another_process_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    variables: Mapping[str, str] = {"LISTEN_PID": str(os.getppid()), "LISTEN_FDS": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert take_inherited_listener() is None
    assert {name: os.environ[name] for name in variables} == variables
