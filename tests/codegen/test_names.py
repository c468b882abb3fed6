"""Names that mean something in Python, in purerpc or in generated code, and files that Python
cannot import by statement: `gen` makes code that imports, serves, calls and passes mypy.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from meshtrio.client.channel import connect_to
from meshtrio.codegen.naming import (
    generated_file_name,
    module_alias,
    pb2_module_name,
    python_method_names,
)
from meshtrio.codegen.repair import repair_module, repair_types
from meshtrio.rpc.server import Server
from tests.support.mesh_processes import run_meshtrio
from tests.support.servers import serve_on_socket

PROTOS = Path(__file__).parent / "protos"
FILES = ["2fa/v1/x.proto", "2fa/v1/y.proto", "clash/_names.proto", "clash/uses-2fa.proto"]
NAMES = {
    "service": "service__",
    "service_": "service_",
    "property": "property",
    "None": "None_",
    "self": "self",
    "__init__": "rpc__init__",
    "__class__": "rpc__class__",
    "_client": "_client",
    "client": "client",
    "importlib": "importlib",
    "m_clash___names__pb2": "m_clash___names__pb2",
    "match": "match",
    "print": "print",
    "object": "object",
    "lambda": "lambda_",
}
"""The unary methods of clash.Names, with their names in Python."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("generated")
    files = (str(PROTOS / file) for file in FILES)
    done = run_meshtrio("gen", f"-I{PROTOS}", f"--out={out}", *files)
    assert (done.returncode, done.stderr) == (0, "")
    before = set(sys.modules)
    sys.path.insert(0, str(out))
    yield out
    sys.path.remove(str(out))
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("2fa", "clash"):
            del sys.modules[name]


def load(name: str) -> Any:
    return importlib.import_module(name)


async def test_every_method_can_be_served_and_called(made: Path, short_dir: Path) -> None:
    grpc, messages = load("clash._names_grpc"), load("clash._names_pb2")

    async def unary(self: Any, message: Any) -> Any:
        return message

    async def all_of(self: Any, received: Any) -> AsyncIterator[Any]:
        async for message in received:
            yield message

    async def last_of(self: Any, received: Any) -> Any:
        return [message async for message in received][-1]

    async def twice(self: Any, message: Any) -> AsyncIterator[Any]:
        yield message
        yield message

    methods = dict.fromkeys(NAMES.values(), unary) | {"rpc__private": unary}
    streams = {"stubs": twice, "AsyncIterator": last_of, "Any": all_of}
    servicer = type("Names", (grpc.NamesServicer,), methods | streams)()

    async def some() -> AsyncIterator[Any]:
        for text in "ab":
            yield messages.purerpc(text=text)

    async with serve_on_socket(short_dir / "a", Server(servicer)) as server:
        assert {path.removeprefix("/clash.Names/") for path in server.handler_table.handlers} == {
            *(*NAMES, "__private"),
            *("stubs", "AsyncIterator", "Any"),
        }
        async with connect_to(f"unix:{short_dir / 'a'}") as channel:
            stub = channel.stub(grpc.NamesStub)
            for name in NAMES.values():
                request = messages.stubs if name in ("None_", "self") else messages.purerpc
                request = messages.property if name == "property" else request
                assert (await getattr(stub, name)(request(text=name))).text == name
            private = getattr(messages, "__Private")(text="x")
            assert (await stub.rpc__private(private)).text == "x"
            texts = [reply.text async for reply in stub.stubs(messages.purerpc(text="x"))]
            assert texts == ["x", "x"]
            assert (await stub.AsyncIterator(some())).text == "b"
            assert [reply.text async for reply in stub.Any(some())] == ["a", "b"]


async def test_files_that_cannot_be_imported_by_statement(made: Path, short_dir: Path) -> None:
    x, codes = load("2fa.v1.x_grpc"), load("2fa.v1.y_pb2")
    answers, uses = load("2fa.v1.x_pb2"), load("clash.uses_2fa_pb2")
    assert uses.Code is codes.Code

    class Checks(x.ChecksServicer):  # type: ignore[name-defined,misc]
        async def Check(self, message: Any) -> Any:
            return answers.Answer(code=message)

    class UsesCodes(load("clash.uses_2fa_grpc").UsesCodesServicer):  # type: ignore[misc]
        async def Use(self, message: Any) -> Any:
            return message.code

    async with serve_on_socket(short_dir / "a", Server(Checks(), UsesCodes())):
        async with connect_to(f"unix:{short_dir / 'a'}") as channel:
            code = codes.Code(digits="123")
            assert (await channel.stub(x.ChecksStub).Check(code)).code == code
            stub = channel.stub(load("clash.uses_2fa_grpc").UsesCodesStub)
            assert await stub.Use(uses.Uses(code=code)) == code


USES = """
from clash._names_grpc import NamesServicer, NamesStub, intStub, purerpc_Stub
from clash._names_pb2 import property as Property, purerpc, stubs
from clash.uses_2fa_grpc import UsesCodesStub
from clash.uses_2fa_pb2 import Uses
from collections.abc import AsyncIterator

class Names(NamesServicer):
    async def property(self, message: Property) -> Property:
        return message

    async def service__(self, message: purerpc) -> purerpc:
        return message

    async def Any(self, messages: AsyncIterator[purerpc]) -> AsyncIterator[purerpc]:
        async for message in messages:
            yield message

async def use(stub: NamesStub, other: UsesCodesStub) -> None:
    reply: purerpc = await stub.service__(purerpc())
    made: stubs = await stub.None_(stubs())
    async for each in stub.stubs(purerpc()):
        text: str = each.text
    await other.Use(Uses())
    {wrong}
"""


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [("", "Success"), ("await stub.property(purerpc())", "incompatible type")],
)
def test_mypy_is_strict_about_clashing_names(
    made: Path, wrong: str, expected: str, tmp_path: Path
) -> None:
    (tmp_path / "uses.py").write_text(USES.replace("{wrong}", wrong))
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\nmypy_path = {made}\nexplicit_package_bases = True\n"
        "[mypy-purerpc.*]\nignore_missing_imports = True\n"
        # As protoc makes them.
        "[mypy-clash._names_pb2,clash.uses_2fa_pb2]\ndisallow_any_generics = False\n"
    )
    files = [str(made / "clash" / name) for name in ("_names_grpc.py", "uses_2fa_grpc.py")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "uses.py", *files],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert expected in done.stdout, done.stdout + done.stderr


def test_names_of_methods_stay_unique() -> None:
    assert python_method_names(["import_", "import", "a"]) == {
        "import_": "import_",
        "import": "import__",
        "a": "a",
    }
    assert python_method_names(["__x", "rpc__x"]) == {"__x": "rpc__x_", "rpc__x": "rpc__x"}
    assert python_method_names(["service_", "service", "service__"])["service"] == "service___"


def test_modules_are_found_where_protoc_puts_them() -> None:
    assert pb2_module_name("a.b/some-file.proto") == "a.b.some_file_pb2"
    assert generated_file_name("a.b/some-file.proto") == "a/b/some_file_grpc.py"
    assert generated_file_name("old.protodevel") == "old_grpc.py"
    assert [module_alias(module) for module in ("2fa.x_pb2", "_x_pb2", "a+b.x_pb2", "a.b_pb2")] == [
        *("m2fa_x__pb2", "m__x__pb2", "a_b_x__pb2", "a_b__pb2")
    ]


def test_only_imports_that_cannot_be_are_repaired() -> None:
    text = "from a.v1 import y_pb2 as a_dot_v1_dot_y__pb2\nfrom a.v1.y_pb2 import *\nx = 1\n"
    assert repair_module(text) == repair_types(text) == text
    assert repair_module("from 1.v1 import y_pb2 as _1_dot_y__pb2\n") == (
        '_1_dot_y__pb2 = __import__("importlib").import_module("1.v1.y_pb2")\n'
    )
    compile(repair_module("from 1.v1.y_pb2 import *\nfrom import import x_pb2 as y\n"), "x", "exec")
    types = "from 1.v1 import y_pb2 as _y_pb2\nfrom 1.v1.y_pb2 import Y as Y\n\nx: _y_pb2.Y.Z\n"
    compile(repair_types(types), "x", "exec")
    assert "x: _Unknown\n" in repair_types(types)
