"""`meshtrio call` with values of every kind: requests that are taken or refused with one line, and
replies that are shown as grpcurl shows them, never a traceback.
"""

from __future__ import annotations

import base64
import importlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import any_pb2
from google.protobuf.struct_pb2 import Struct, Value

from meshtrio.cli.call import parse_request
from meshtrio.util.errors import UsageError
from tests.support.mesh_processes import (
    PLUGINS_DIRECTORY,
    MeshProcess,
    plugin_table,
    serve_mesh,
)
from tests.tools import find_tool

PROTOS = Path(__file__).parent / "protos"
PROTO = PROTOS / "odd" / "v1" / "odd.proto"
REQUIRED = PROTOS / "odd" / "v1" / "required.proto"
ODD = "odd.v1.Odd"
URL = "type.googleapis.com"


@pytest.fixture(scope="module")
def made() -> Iterator[Path]:
    """A folder with the code of odd.proto, which can be imported."""
    with tempfile.TemporaryDirectory(prefix="mt-") as folder:
        command = [sys.executable, "-m", "meshtrio", "gen", f"-I{PROTOS}", f"--out={folder}"]
        subprocess.run([*command, str(PROTO)], check=True, stdout=subprocess.DEVNULL)
        sys.path.insert(0, folder)
        yield Path(folder)
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def odd(made: Path) -> Any:
    return importlib.import_module("odd.v1.odd_pb2")


@pytest.fixture(scope="module")
def odd_mesh(made: Path) -> Iterator[MeshProcess]:
    config = plugin_table("odd", str(PLUGINS_DIRECTORY / "odd_values.py"), cwd=made)
    config += plugin_table("silent", str(PLUGINS_DIRECTORY / "grpcio_without_reflection.py"))
    with serve_mesh(made, config, min_ready=2) as mesh:
        yield mesh


@pytest.fixture(scope="module")
def protoset(made: Path) -> Path:
    path = made / "odd.protoset"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", "--include_imports"]
    command += [f"--descriptor_set_out={path}", str(PROTO), str(REQUIRED)]
    subprocess.run(command, check=True)
    return path


# -- replies ---------------------------------------------------------------------------------


def values(odd: Any) -> dict[str, tuple[Any, Any]]:
    """Messages, each with what is shown of it."""
    found: dict[str, tuple[Any, Any]] = {}

    def case(name: str, shown: Any, **fields: Any) -> Any:
        found[name] = odd.Value(**fields), shown
        return found[name][0]

    def any_of(url: str, value: bytes = b"") -> any_pb2.Any:
        return any_pb2.Any(type_url=url, value=value)

    inner = odd.Inner(text="x").SerializeToString()
    known = {"@type": f"{URL}/odd.v1.Inner", "text": "x"}
    unknown = "no.Such is not recognized; see @value for raw binary message data"
    case("own any", {"any": known}, any=any_of(f"{URL}/odd.v1.Inner", inner))
    case(
        "any of an unknown type",
        {"any": {"@type": f"{URL}/no.Such", "@error": unknown, "@value": "YWJj"}},
        any=any_of(f"{URL}/no.Such", b"abc"),
    )
    case(
        "any of a well known type",
        {"any": {"@type": f"{URL}/google.protobuf.Timestamp", "value": "1970-01-01T00:00:05Z"}},
        any=any_of(f"{URL}/google.protobuf.Timestamp", b"\x08\x05"),
    )
    nested = any_of(f"{URL}/odd.v1.Inner", inner).SerializeToString()
    case(
        "any in any",
        {"any": {"@type": f"{URL}/google.protobuf.Any", "value": known}},
        any=any_of(f"{URL}/google.protobuf.Any", nested),
    )
    case(
        "any with another host",
        {"any": {"@type": "x.com/odd.v1.Inner"}},
        any=any_of("x.com/odd.v1.Inner"),
    )
    case("anys", {"anys": [known]}, anys=[any_of(f"{URL}/odd.v1.Inner", inner)])
    case(
        "time", {"time": "2001-09-09T01:46:40.120Z"}, time={"seconds": 10**9, "nanos": 120_000_000}
    )
    case("time far away", {"time": "36534630048-05-13T13:56:16Z"}, time={"seconds": 2**60})
    case(
        "time before the first year",
        {"time": "0000-12-31T23:59:59Z"},
        time={"seconds": -62135596801},
    )
    case("span", {"span": "-1.500s"}, span={"seconds": -1, "nanos": -500_000_000})
    case(
        "NaN",
        {"struct": {"a": "NaN"}},
        struct=Struct(fields={"a": Value(number_value=float("nan"))}),
    )
    case("infinity", {"value": "-Infinity"}, value={"number_value": float("-inf")})
    case("null", {"value": None}, value={"null_value": 0})
    case(
        "mask with odd paths",
        {"mask": {"paths": ["fooBar", "a__b", "x_", "a,b"]}},
        mask={"paths": ["fooBar", "a__b", "x_", "a,b"]},
    )
    case("unknown enums", {"color": 7, "colors": ["NONE", "RED", 9]}, color=7, colors=[0, 1, 9])
    case(
        "numbers",
        {"number": "NaN", "small": 0.1, "big": str(2**60), "ubig": str(2**64 - 1)},
        number=float("nan"),
        small=0.1,
        big=2**60,
        ubig=2**64 - 1,
    )
    case(
        "maps",
        {
            "inner": {"k": {"data": "MTI="}},
            "numbers": {"-5": 1e300, "1": "Infinity"},
            "bools": {"false": 5, "true": "RED"},
        },
        inner={"k": odd.Inner(data=b"12")},
        numbers={1: float("inf"), -5: 1e300},
        bools={True: 1, False: 5},
    )
    case(
        "control characters",
        {"text": "\x1b[31m \x9b \u202e\u2028 é 😀 \x7f"},
        text="\x1b[31m \x9b \u202e\u2028 é 😀 \x7f",
    )
    case("empty", {})
    return found


def only_ours(odd: Any) -> dict[str, tuple[Any, Any]]:
    """Return messages that grpcurl fails to show, or shows differently from protobuf's JSON."""
    inner = any_pb2.Any(type_url=f"{URL}/odd.v1.Inner", value=b"\xff\xff")
    known = {"@type": f"{URL}/odd.v1.Inner"}
    broken = known | {"@error": "@value is not a odd.v1.Inner", "@value": "//8="}
    return {
        "any with other bytes": (odd.Value(any=inner), {"any": broken}),
        "empty any": (odd.Value(any={}), {"any": {}}),
        "nanoseconds": (odd.Value(time={"nanos": -5}), {"time": {"nanos": -5}}),
        "too many": (odd.Value(time={"nanos": 10**9}), {"time": {"nanos": 10**9}}),
        "too long": (odd.Value(span={"seconds": 2**60}), {"span": {"seconds": str(2**60)}}),
        "two signs": (
            odd.Value(span={"seconds": 1, "nanos": -1}),
            {"span": {"seconds": "1", "nanos": -1}},
        ),
        "no kind": (odd.Value(value={}, list={"values": [{}]}), {"value": None, "list": [None]}),
        "mask": (odd.Value(mask={"paths": ["a_b.c", "d"]}), {"mask": "aB.c,d"}),
    }


def raws(messages: Any) -> str:
    texts = [base64.b64encode(each.SerializeToString()).decode() for each in messages]
    return "".join(json.dumps({"data": text}) + "\n" for text in texts)


def call(
    mesh: MeshProcess, *arguments: str, given: str | bytes = ""
) -> subprocess.CompletedProcess[str]:
    """Run `meshtrio call`."""
    done = subprocess.run(
        [sys.executable, "-m", "meshtrio", "call", *arguments],
        env=mesh.environment,
        input=given if isinstance(given, bytes) else given.encode(),
        capture_output=True,
        timeout=120,
        check=False,
    )
    found = subprocess.CompletedProcess(done.args, done.returncode, done.stdout, done.stderr)
    found.stdout, found.stderr = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in found.stderr
    return found


def test_replies_are_shown_as_grpcurl_shows_them(odd_mesh: MeshProcess, odd: Any) -> None:
    cases = values(odd)
    given = raws(message for message, _ in cases.values())
    found = call(odd_mesh, "plugin.odd", f"{ODD}/GiveEach", "-", given=given)
    assert (found.returncode, found.stderr) == (0, "")
    shown = dict(zip(cases, map(json.loads, found.stdout.splitlines()), strict=True))
    assert shown == {name: expected for name, (_, expected) in cases.items()}

    socket = odd_mesh.runtime_dir / "odd-0.sock"
    command = [
        find_tool("grpcurl"),
        "-plaintext",
        "-d",
        given,
        f"unix://{socket}",
        f"{ODD}/GiveEach",
    ]
    theirs = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert dict(zip(cases, documents(theirs), strict=True)) == shown


def documents(text: str) -> Iterator[Any]:
    """JSON documents one after the other."""
    decoder = json.JSONDecoder()
    while text := text.strip():
        document, end = decoder.raw_decode(text)
        yield document
        text = text[end:]


def test_what_grpcurl_cannot_show_is_shown_as_plain_fields(odd_mesh: MeshProcess, odd: Any) -> None:
    cases = only_ours(odd)
    given = raws(message for message, _ in cases.values())
    found = call(odd_mesh, "plugin.odd", f"{ODD}/GiveEach", "-", given=given)
    shown = dict(zip(cases, map(json.loads, found.stdout.splitlines()), strict=True))
    assert shown == {name: expected for name, (_, expected) in cases.items()}


def test_messages_that_are_nested_deeply(odd_mesh: MeshProcess, odd: Any) -> None:
    plain = message = odd.Value()
    for _ in range(95):
        message = message.child
    message.text = "the innermost"
    packed = odd.Value(text="the innermost")
    for _ in range(1000):
        outer = odd.Value()
        outer.any.Pack(packed)
        packed = outer
    found = call(odd_mesh, "plugin.odd", f"{ODD}/GiveEach", "-", given=raws([plain, packed]))
    assert (found.returncode, found.stderr) == (0, "")
    first, second = found.stdout.splitlines()
    assert "the innermost" in first
    assert '"@error": "nested too deeply", "@value": "' in second


# -- requests --------------------------------------------------------------------------------

TAKEN = {
    '{"any": {"@type": "type.googleapis.com/odd.v1.Inner", "text": "x"}}': None,
    '{"any": {"@type": "x/google.protobuf.Duration", "value": "1s"}}': None,
    '{"number": "NaN", "numbers": {"1": "Infinity"}}': None,
    '{"struct": {"a": NaN}}': '{"struct": {"a": "NaN"}}',
    '{"value": Infinity}': '{"value": "Infinity"}',
    '{"color": 5, "colors": ["RED", 7]}': '{"color": 5, "colors": ["RED", 7]}',
    '{"mask": "fooBar,x"}': '{"mask": "fooBar,x"}',
    '{"big": "9007199254740993"}': '{"big": "9007199254740993"}',
}


@pytest.mark.parametrize("text", TAKEN)
def test_requests_that_are_taken(odd_mesh: MeshProcess, text: str) -> None:
    found = call(odd_mesh, "plugin.odd", f"{ODD}/Echo", text)
    assert (found.returncode, found.stderr) == (0, "")
    assert json.loads(found.stdout) == json.loads(TAKEN[text] or text)


REFUSED = [
    '{"any": {"@type": "type.googleapis.com/no.Such", "x": 1}}',
    '{"any": {"@type": "", "x": 1}}',
    '{"any": {"x": 1}}',
    '{"any": 5}',
    '{"any": {"@type": 7}}',
    '{"time": "yesterday"}',
    '{"time": "99999-01-01T00:00:00Z"}',
    '{"time": {"seconds": 1}}',
    '{"span": "1000000000000000s"}',
    '{"span": "x"}',
    '{"number": NaN}',
    '{"struct": 5}',
    '{"mask": 5}',
    '{"color": "NO_COLOR"}',
    '{"color": 99999999999}',
    '{"big": "99999999999999999999999"}',
    '{"big": 1.5}',
    '{"small": 1e300}',
    '{"text": "\\ud800"}',
    '{"text": 5}',
    '{"numbers": {"x": 1}}',
    '{"inner": null, "inner": null}',
    '{"nothing": 1}',
    "[1]",
    "5",
    "null",
    '"x"',
    "",
    "{",
    "{}{}",
    "9" * 5000,
    '{"child":' * 150 + "{}" + "}" * 150,
    "[" * 200_000,
    '{"value":' + "[" * 200_000,
]


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[:40])
def test_requests_that_are_refused(odd: Any, text: str) -> None:
    method = odd.DESCRIPTOR.services_by_name["Odd"].methods_by_name["Echo"]
    with pytest.raises(UsageError, match=r"^not a odd.v1.Value in JSON: .") as refused:
        parse_request(method, text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "text", ['{"any": {"@type": "x/no.Such"}}', '{"struct":' * 100_000], ids=["type", "depth"]
)
def test_a_request_that_is_refused_is_one_line(odd_mesh: MeshProcess, text: str) -> None:
    found = call(odd_mesh, "plugin.odd", f"{ODD}/Echo", "-", given=text)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("meshtrio: not a odd.v1.Value in JSON: ")


@pytest.mark.parametrize("method", ["Echo", "GiveEach"])
def test_stdin_that_is_not_utf8(odd_mesh: MeshProcess, method: str) -> None:
    given = b'{"text": "caf\xe9"}'
    found = call(odd_mesh, "plugin.odd", f"{ODD}/{method}", "-", given=given)
    assert found.returncode == 2
    assert found.stderr == "meshtrio: stdin is not UTF-8: it has the bytes e9\n"


@pytest.mark.parametrize(
    "method",
    ["", "/", "x", "odd.v1.Odd", "odd.v1.Odd/", "a b/c", "a\n/c", "é/x", "a/\udcff", "a./b"],
)
def test_methods_that_are_none(odd_mesh: MeshProcess, method: str) -> None:
    found = call(odd_mesh, "plugin.odd", method)
    assert found.returncode == 2
    assert found.stderr.startswith("meshtrio: ")
    assert found.stderr.endswith(" is not pkg.Service/Method\n")
    assert found.stderr.count("\n") == 1


@pytest.mark.parametrize("service", ["plugin.\udcff", "plugin.é", "plugin.a\nb", "", "plugin. x "])
def test_services_that_are_none(odd_mesh: MeshProcess, service: str) -> None:
    found = call(odd_mesh, service, f"{ODD}/Echo", "--timeout=1")
    assert found.returncode in (1, 2)
    assert found.stderr.startswith("meshtrio: ")
    assert found.stderr.count("\n") == 1


def test_a_method_with_a_name_of_python(odd_mesh: MeshProcess) -> None:
    found = call(odd_mesh, "plugin.odd", f"{ODD}/__class__", '{"text": "x"}')
    assert (found.stdout, found.stderr) == ('{"text": "x"}\n', "")


# -- servers without reflection --------------------------------------------------------------


def test_a_server_without_reflection_is_named(odd_mesh: MeshProcess) -> None:
    found = call(odd_mesh, "plugin.silent", f"{ODD}/Echo")
    assert found.returncode == 2
    assert found.stderr == (
        "meshtrio: plugin.silent does not support reflection: give the types of odd.v1.Odd with "
        "--proto FILE or --protoset FILE\n"
    )
    address = f"unix:{odd_mesh.runtime_dir}/silent-0.sock"
    assert f"{address} does not support reflection" in call(odd_mesh, address, f"{ODD}/Echo").stderr


def test_types_from_files(odd_mesh: MeshProcess, protoset: Path) -> None:
    text = '{"any": {"@type": "type.googleapis.com/odd.v1.Inner", "text": "x"}}'
    for options in (
        [f"--protoset={protoset}"],
        [f"--proto={PROTO}"],
        [f"--proto={PROTO.relative_to(PROTOS)}", f"-I{PROTOS}"],
        [f"--proto={REQUIRED}", f"--proto={PROTO}", f"-I{PROTOS}"],
    ):
        found = call(odd_mesh, "plugin.silent", f"{ODD}/Echo", text, *options)
        assert (found.stdout, found.stderr) == (text + "\n", ""), options


def test_a_protoset_without_its_imports(odd_mesh: MeshProcess, made: Path) -> None:
    path = made / "bare.protoset"
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", str(PROTO)]
    subprocess.run([*command, f"--descriptor_set_out={path}"], check=True)
    # Those that come with protobuf are known.
    found = call(odd_mesh, "plugin.silent", f"{ODD}/Echo", "{}", f"--protoset={path}")
    assert (found.stdout, found.stderr) == ("{}\n", "")


def test_files_that_cannot_be_used(odd_mesh: MeshProcess, made: Path, protoset: Path) -> None:
    (made / "bad.proto").write_text('syntax = "proto3";\nmessage {}\n')
    (made / "bad.protoset").write_bytes(b"\xff\xff\xff")
    (made / "empty.protoset").touch()
    (made / "lacking.protoset").write_bytes(b"\x0a\x0c\x0a\x01a\x1a\x07b.proto")
    for option, expected in {
        f"--proto={made}/bad.proto": "bad.proto:2:9: Expected message name.",
        f"--proto={made}/none.proto": "no such file",
        f"--protoset={made}/none.protoset": "cannot be read: No such file or directory",
        f"--protoset={made}": "cannot be read: Is a directory",
        f"--protoset={made}/bad.protoset": "is not a FileDescriptorSet; make it with protoc",
        f"--protoset={made}/lacking.protoset": "lacks b.proto, which a imports; make it with",
        f"--protoset={made}/empty.protoset": "there is no service odd.v1.Odd in the given files",
    }.items():
        found = call(odd_mesh, "plugin.silent", f"{ODD}/Echo", option)
        assert found.returncode == 2, option
        assert expected in found.stderr
        assert found.stderr.count("\n") == 1
        assert found.stderr.startswith("meshtrio: ")


@pytest.mark.parametrize("reply", [b"\xff", b"\x8a\x01\x02\xff\xfe", b"\x92\x01" + b"\x02" * 50])
def test_replies_that_are_none(odd_mesh: MeshProcess, protoset: Path, reply: bytes) -> None:
    text = json.dumps({"data": base64.b64encode(reply).decode()})
    found = call(odd_mesh, "plugin.silent", f"{ODD}/Give", text, f"--protoset={protoset}")
    assert found.returncode == 1
    assert found.stderr.startswith("meshtrio: INTERNAL: ")
    assert found.stderr.count("\n") == 1


def test_messages_of_proto2(odd_mesh: MeshProcess, protoset: Path) -> None:
    option = f"--protoset={protoset}"
    text = '{"name": "x", "[odd.v1.extra]": "y"}'
    found = call(odd_mesh, "plugin.silent", "odd.v1.Old/Echo", text, option)
    assert (json.loads(found.stdout), found.stderr) == (json.loads(text), "")
    missing = call(odd_mesh, "plugin.silent", "odd.v1.Old/Echo", "{}", option)
    assert missing.returncode == 2
    assert missing.stderr == (
        "meshtrio: not a odd.v1.Required in JSON: required fields are missing: name\n"
    )
