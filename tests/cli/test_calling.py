"""`meshtrio call`: JSON in, JSON out."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from meshtrio.cli.protojson import message_to_json_value
from meshtrio.messages import control, load
from tests.support.cli_commands import (
    ECHO_METHOD,
    SLOW_METHOD,
    run_command_ok,
    start_command,
)
from tests.support.mesh_processes import MeshProcess, run_meshtrio

SERVICE = "echo.v1.EchoService"


def messages(text: str) -> list[str]:
    return [json.loads(line).get("message", "") for line in text.splitlines()]


def with_input(mesh: MeshProcess, given: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return run_meshtrio(*arguments, env=mesh.environment, stdin=given)


def test_each_line_of_stdin_is_sent_as_it_comes(mesh: MeshProcess) -> None:
    with start_command(
        mesh, "call", "plugin.echo", f"{SERVICE}/Chat", '{"message": "first"}', "-"
    ) as chat:
        assert chat.read_json()["message"] == "first"
        for word in ("a", "b"):
            chat.write_line(json.dumps({"message": word}))
            assert chat.read_json()["message"] == word
        assert chat.wait() == 0


def test_a_stream_of_requests_with_one_reply(mesh: MeshProcess) -> None:
    given = '{"message": "a"}\n\n{"message": "b"}'
    joined = with_input(mesh, given, "call", "plugin.echo", f"{SERVICE}/Join", "-")
    assert messages(joined.stdout) == ["a b"]


def test_one_message_may_take_all_of_stdin(mesh: MeshProcess) -> None:
    given = '{\n  "message": "pretty"\n}\n'
    assert messages(with_input(mesh, given, "call", "plugin.echo", ECHO_METHOD, "-").stdout) == [
        "pretty"
    ]


def test_a_mistake_in_what_is_read_is_told(mesh: MeshProcess) -> None:
    found = with_input(mesh, '{"mesage": "x"}\n', "call", "plugin.echo", f"{SERVICE}/Chat", "-")
    assert found.returncode == 2
    assert found.stderr.startswith("meshtrio: not a echo.v1.EchoRequest in JSON: ")
    assert '"mesage"' in found.stderr


def test_replies_come_before_the_status_and_its_details(mesh: MeshProcess) -> None:
    request = '{"message": "x", "count": 2}'
    found = mesh.run_command("call", "plugin.wordy", f"{SERVICE}/Repeat", request, "--json")
    assert found.returncode == 1
    assert messages(found.stdout) == ["x", "x"]
    assert found.stderr.splitlines() == [
        "meshtrio: NOT_FOUND: no more of them",
        '  echo.v1.EchoRequest {"message": "a detail"}',
        "  no.Such, 3 bytes",
    ]


def test_a_call_that_takes_too_long_is_told_from_one_that_fails(mesh: MeshProcess) -> None:
    found = mesh.run_command(
        "call", "plugin.wordy", SLOW_METHOD, '{"seconds": 60}', "--timeout", "0.5"
    )
    assert found.returncode == 1
    said = "plugin.wordy did not finish the call within 0.5 s (--timeout)"
    assert found.stderr == f"meshtrio: DEADLINE_EXCEEDED: {said}\n"


def test_a_call_that_waits_for_a_mesh_reports_that_none_answers(short_dir: Path) -> None:
    socket = short_dir / "none.sock"
    arguments = ["call", "--wait", "plugin.echo", ECHO_METHOD, "--timeout", "0.5"]
    found = run_meshtrio(*arguments, env={**os.environ, "MESH_SOCKET": str(socket)})
    assert found.returncode == 1
    assert found.stderr == (
        "meshtrio: DEADLINE_EXCEEDED: plugin.echo did not finish the call within 0.5 s "
        f"(--timeout): no mesh answers at {socket} (No such file or directory); start one with "
        "`meshtrio serve`, or set MESH_SOCKET to the socket of a running one\n"
    )


def test_an_address_is_called_straight(mesh: MeshProcess) -> None:
    address = f"unix:{mesh.runtime_dir}/echo-1.sock"
    found = json.loads(run_command_ok(mesh, "call", address, ECHO_METHOD, '{"message": "hi"}'))
    assert (found["message"], found["instance"]) == ("hi", 1)


def test_metadata_in_base64_has_to_be_that(mesh: MeshProcess) -> None:
    found = mesh.run_command("call", "plugin.echo", ECHO_METHOD, "-m", "key-bin=%")
    assert found.returncode == 2
    assert found.stderr == (
        "meshtrio: Invalid value: '%' is not base64, as key-bin has to be. "
        "See `meshtrio call --help`\n"
    )


def test_replies_have_the_names_of_the_proto() -> None:
    found = message_to_json_value(control.InstanceStatistics(load=load.LoadReport(in_flight=1)))
    assert found == {"load": {"in_flight": 1}}


@pytest.mark.parametrize("address", ["unix:", "unix:relative", "tcp:localhost", "tcp:h:99999"])
def test_an_address_that_is_none(address: str, mesh: MeshProcess) -> None:
    found = mesh.run_command("call", address, ECHO_METHOD)
    assert found.returncode == 2
    said = "is neither unix:/path nor tcp:host:port"
    assert found.stderr == f"meshtrio: {address!r} {said}\n"


@pytest.mark.parametrize(
    ("address", "why"),
    [("unix:/none", "No such file or directory"), ("tcp:127.0.0.1:1", "Connection refused")],
)
def test_an_address_that_cannot_be_reached(address: str, why: str, mesh: MeshProcess) -> None:
    found = mesh.run_command("call", address, ECHO_METHOD, "--timeout", "0.5")
    assert found.returncode == 1
    said = f"{address} did not finish the call within 0.5 s (--timeout): "
    assert found.stderr.startswith(f"meshtrio: DEADLINE_EXCEEDED: {said}")
    assert found.stderr.endswith(f"{why}\n")


def test_a_plugin_that_has_given_up_tells_why(mesh: MeshProcess) -> None:
    found = mesh.run_command("call", "plugin.bad", ECHO_METHOD, "--timeout", "0.5")
    assert found.returncode == 1
    assert found.stderr.startswith("meshtrio: DEADLINE_EXCEEDED: plugin.bad did not finish")
    assert found.stderr.endswith("exited with status 3: about to give up\n")


@pytest.mark.parametrize(
    "option",
    [
        *(f"-m{pair}" for pair in ("Foo Bar=1", "x=é", "=x", ":path=x", "te=x", "grpc-timeout=1S")),
        "--timeout=nan",
        "--timeout=inf",
    ],
)
def test_an_option_that_cannot_be(option: str, mesh: MeshProcess) -> None:
    found = mesh.run_command("call", "plugin.echo", ECHO_METHOD, option)
    assert found.returncode == 2
    assert found.stderr.startswith("meshtrio: Invalid value")
    assert found.stderr.count("\n") == 1
