"""Our protos: every service, method, message and field is explained."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto, FileDescriptorSet

from tests import ROOT

PROTOS = ROOT / "protos"
OURS = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.glob("meshtrio/**/*.proto"))
_MESSAGES, _SERVICES = 4, 6  # fields of FileDescriptorProto
_FIELDS, _NESTED, _METHODS = 2, 3, 2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, FileDescriptorProto]:
    out = tmp_path_factory.mktemp("protos") / "files.binpb"
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}", "--include_source_info"]
    subprocess.run([*protoc, f"--descriptor_set_out={out}", *OURS], check=True)
    parsed = FileDescriptorSet.FromString(Path(out).read_bytes())
    return {file.name: file for file in parsed.file}


def things(file: FileDescriptorProto) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Return what has to have a comment, and its place in the file."""
    for s, service in enumerate(file.service):
        for m, method in enumerate(service.method):
            yield f"{service.name}.{method.name}", (_SERVICES, s, _METHODS, m)
    for number, message in enumerate(file.message_type):
        yield from things_of(message, message.name, (_MESSAGES, number))


def things_of(
    message: DescriptorProto, name: str, path: tuple[int, ...]
) -> Iterator[tuple[str, tuple[int, ...]]]:
    for number, field in enumerate(message.field):
        yield f"{name}.{field.name}", (*path, _FIELDS, number)
    for number, nested in enumerate(message.nested_type):
        if not nested.options.map_entry:
            yield from things_of(nested, f"{name}.{nested.name}", (*path, _NESTED, number))


@pytest.mark.parametrize("name", OURS)
def test_all_of_a_file_is_explained(name: str, files: dict[str, FileDescriptorProto]) -> None:
    file = files[name]
    said = {tuple(each.path) for each in file.source_code_info.location if each.leading_comments}
    assert [thing for thing, path in things(file) if path not in said] == []
