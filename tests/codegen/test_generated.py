"""protoc-gen-meshtrio, run by protoc: what it makes imports, serves, calls, and passes mypy."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import purerpc
import pytest

from meshtrio.client.channel import connect_to
from meshtrio.rpc.server import Server
from tests.support.mesh_processes import run_meshtrio
from tests.support.servers import serve_on_socket

PROTOS = Path(__file__).parent / "protos"
FILES = [
    "odd/whole.proto",
    "odd/import/odd-names.proto",
    "shared/public.proto",
    "shared/moved.proto",
]


def protoc(out: Path, *files: str) -> subprocess.CompletedProcess[str]:
    plugin = Path(sys.executable).parent / "protoc-gen-meshtrio"
    return subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"),
            *(f"--plugin={plugin}", f"--python_out={out}", f"--pyi_out={out}"),
            *(f"--meshtrio_out={out}", *files),
        ],
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("generated")
    done = protoc(out, *FILES)
    assert done.returncode == 0, done.stderr
    before = set(sys.modules)
    sys.path.insert(0, str(out))
    yield out
    sys.path.remove(str(out))
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("odd", "shared"):
            del sys.modules[name]


def load(name: str, made: Path) -> ModuleType:
    """Import what was generated."""
    return importlib.import_module(name)


def test_only_files_with_services_are_made(made: Path) -> None:
    found = sorted(str(path.relative_to(made)) for path in made.rglob("*_grpc.py"))
    assert found == ["odd/import/odd_names_grpc.py", "odd/whole_grpc.py"]


async def test_servicer_and_stub_of_all_four_kinds(made: Path, short_dir: Path) -> None:
    grpc, whole = load("odd.whole_grpc", made), load("odd.whole_pb2", made)
    moved = load("shared.moved_pb2", made).Moved

    class Odd(grpc.OddServicer):  # type: ignore[name-defined,misc]
        async def Nested(self, message: Any) -> Any:
            return whole.Outer.Inner.Innermost(number=message.innermost.number + 1)

        async def Lists(self, message: Any) -> AsyncIterator[Any]:
            for text in "abc":
                yield moved(text=text)

        async def Talks(self, messages: Any) -> AsyncIterator[Any]:
            async for message in messages:
                yield message

    assert isinstance(Odd(), purerpc.Servicer)
    async with serve_on_socket(short_dir / "a", Server(Odd())):
        async with connect_to(f"unix:{short_dir / 'a'}") as channel:
            stub = channel.stub(grpc.OddStub)
            inner = whole.Outer.Inner(innermost=whole.Outer.Inner.Innermost(number=1))
            assert (await stub.Nested(inner)).number == 2
            empty = load("google.protobuf.empty_pb2", made).Empty()
            assert [reply.text async for reply in stub.Lists(empty)] == ["a", "b", "c"]
            async with stub.Talks() as call:
                await call.send_message(moved(text="x"))
                assert (await call.receive_message()).text == "x"
            with pytest.raises(purerpc.UnimplementedError):
                await stub.Collects(some(moved))


async def some(moved: Any) -> AsyncIterator[Any]:
    yield moved()


async def test_names_that_python_keeps_for_itself(made: Path, short_dir: Path) -> None:
    grpc = load("odd.import.odd_names_grpc", made)
    none = getattr(load("odd.import.odd_names_pb2", made), "None")

    class Class(grpc.ClassServicer):  # type: ignore[name-defined,misc]
        async def import_(self, message: Any) -> Any:
            return message

    async with serve_on_socket(short_dir / "a", Server(Class())) as server:
        assert list(server.handler_table.handlers) == ["/odd.import.Class/import"]
        async with connect_to(f"unix:{short_dir / 'a'}") as channel:
            reply = await channel.stub(grpc.ClassStub).import_(none(**{"lambda": "x"}))
    assert getattr(reply, "lambda") == "x"


def test_comments_become_docstrings(made: Path) -> None:
    grpc = load("odd.whole_grpc", made)
    assert grpc.OddServicer.__doc__ == grpc.OddStub.__doc__
    assert 'Its docs have """quotes""" and a back\\slash.' in grpc.OddServicer.__doc__
    assert grpc.OddServicer.Nested.__doc__ == "Takes what is nested."
    assert grpc.OddServicer.Lists.__doc__.strip() == 'Says "enough"'
    assert grpc.OddServicer.Talks.__doc__ is None


USES = """
from odd.whole_grpc import OddServicer, OddStub
from odd.whole_pb2 import Outer
from shared.moved_pb2 import Moved
from collections.abc import AsyncIterator

class Odd(OddServicer):
    async def Nested(self, message: Outer.Inner) -> Outer.Inner.Innermost:
        return message.innermost

    async def Talks(self, messages: AsyncIterator[Moved]) -> AsyncIterator[Moved]:
        async for message in messages:
            yield message

async def use(stub: OddStub) -> None:
    reply: Outer.Inner.Innermost = await stub.Nested(Outer.Inner(), wait_for_ready=False)
    async with stub.Talks() as call:
        await call.send_message(Moved(text="x"))
        async for moved in call:
            text: str = moved.text
    {wrong}
"""


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("", "Success"),
        ("await stub.Nested(Moved())", "incompatible type"),
        ("await stub.Lists(Moved())", "error"),
        ("stub.Nestled", "has no attribute"),
    ],
)
def test_mypy_is_strict_about_it(made: Path, wrong: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "uses.py").write_text(USES.replace("{wrong}", wrong))
    generated = [str(made / "odd" / "whole_grpc.py")]
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\nmypy_path = {made}\nexplicit_package_bases = True\n"
        "[mypy-purerpc.*]\nignore_missing_imports = True\n"
        # As protoc makes it.
        "[mypy-odd.whole_pb2]\ndisallow_any_generics = False\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "uses.py", *generated],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert said in done.stdout, done.stdout + done.stderr


def gen(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_meshtrio("gen", *arguments, cwd=cwd)


def test_the_command_wraps_it_all(tmp_path: Path) -> None:
    done = gen(f"-I{PROTOS}", "--out", "made", *FILES, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "generated code from 4 protos in made\n")
    made = {str(path.relative_to(tmp_path / "made")) for path in tmp_path.rglob("*.py*")}
    assert {"odd/whole_pb2.py", "odd/whole_pb2.pyi", "odd/whole_grpc.py"} <= made


def test_a_proto_that_is_wrong_is_told_by_protoc(tmp_path: Path) -> None:
    (tmp_path / "bad.proto").write_text('syntax = "proto3";\nmessage {}\n')
    done = gen("bad.proto", cwd=tmp_path)
    assert done.returncode == 1
    assert "bad.proto:2:9: Expected message name." in done.stderr


def test_folders_that_are_not_there_or_cannot_be(tmp_path: Path) -> None:
    missing = gen("-I", "nope", "x.proto", cwd=tmp_path)
    assert missing.returncode == 2
    assert missing.stderr == "meshtrio: --proto-path nope: no such folder\n"
    assert not (tmp_path / "nope").exists()
    (tmp_path / "file").touch()
    taken = gen("--out", "file", "x.proto", cwd=tmp_path)
    assert taken.returncode == 2
    assert taken.stderr == "meshtrio: --out file: cannot create: File exists\n"
