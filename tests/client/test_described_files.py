"""The files that a server is described by: what is too much, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from meshtrio.client.descriptor_pool_builder import DescriptorPoolBuilder, sort_by_imports
from meshtrio.util.protobuf_wire import MalformedProtobufError
from meshtrio.util.worker_threads import GilYielder


def file(name: str = "f", *imports: str, package: str = "") -> FileDescriptorProto:
    return FileDescriptorProto(name=name, dependency=imports, package=package)


def with_messages(count: int, name: str = "f", package: str = "") -> bytes:
    made = file(name, package=package)
    for number in range(count):
        made.message_type.add(name=f"{name}M{number}")
    return bytes(made.SerializeToString())


def test_files_fit_together_in_any_order() -> None:
    files = DescriptorPoolBuilder()
    files.add([file("a", "b", "c").SerializeToString()], GilYielder())
    assert files.missing_imports == {"b", "c"}
    files.add([file("b", "c").SerializeToString(), file("c").SerializeToString()], GilYielder())
    assert not files.missing_imports
    found = files.build(GilYielder())
    assert {each.name for each in found.pool.FindFileByName("a").dependencies} == {"b", "c"}


def test_imports_come_first() -> None:
    imports = {"a": ["b", "c", "b"], "b": ["c"], "c": [], "d": ["a"]}
    assert sort_by_imports(imports) == ["c", "b", "a", "d"]
    deep = {str(number): [str(number + 1)] for number in range(5000)} | {"5000": []}
    assert sort_by_imports(deep)[0] == "5000"


@pytest.mark.parametrize(
    "imports", [{"a": ["a"]}, {"a": ["b"], "b": ["a"]}, {"a": ["b"], "b": ["c"], "c": ["b"]}]
)
def test_a_circle_is_found(imports: dict[str, list[str]]) -> None:
    with pytest.raises(MalformedProtobufError, match="import cycle through"):
        sort_by_imports(imports)


def nested(depth: int) -> bytes:
    made = file()
    message = made.message_type.add(name="M")
    for _ in range(depth):
        message = message.nested_type.add(name="M")
    return bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: [with_messages(10_001)], "a file has more than 10,000 declarations"),
        (
            lambda: [with_messages(9000, str(number)) for number in range(5)],
            "files have more than 40,000 declarations",
        ),
        (lambda: [with_messages(5000, package="p" * 300)], "the names in a file"),
        (
            lambda: [with_messages(1, package=".".join("p" * 40))],
            "a package has more than 32 parts",
        ),
        (lambda: [nested(40)], "nested deeper than 32"),
        (lambda: [b"\x0a\x01x" + b"\x50\x00" * 100_001], "more than 100,000 fields"),
        (lambda: [b"\x0a\x01x" + b"\x62\xff\xff\x1f" + b"x" * 2**19], "more than 512 KiB"),
        (
            lambda: [file(f"{n}").SerializeToString() for n in range(2001)],
            "exceed 2,000 files or 8 MiB",
        ),
        (lambda: [file("f", "x" * 2000).SerializeToString()], "a name has more than 1,024 bytes"),
        (lambda: [b"\x0a\x01x\x1a\x01\xff"], "not UTF-8"),
        (lambda: [b"\x0a\x05x"], "field 1 at byte 0 is truncated"),
    ],
)
def test_what_is_too_much_is_refused(make: Callable[[], list[bytes]], reason: str) -> None:
    with pytest.raises(MalformedProtobufError, match=reason):
        DescriptorPoolBuilder().add(make(), GilYielder())


def test_what_protobuf_refuses_is_one_kind_of_error() -> None:
    files = DescriptorPoolBuilder()
    files.add([b"\x0a\x01x\x22\x00"], GilYielder())  # a message without a name
    with pytest.raises(MalformedProtobufError):
        files.build(GilYielder())
