"""Generates what is made from the protos and checked in.

    python protos/generate.py            write it
    python protos/generate.py --check    fail if what is checked in is not what would be written

Needs the `dev` extra, whose pinned protoc makes the result the same everywhere.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import grpc_tools
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
MESSAGES = ROOT / "meshtrio" / "messages"
PACKAGE = "meshtrio.messages"
OURS = {
    "channelz": "grpc/channelz/v1/channelz.proto",
    "health": "grpc/health/v1/health.proto",
    "reflection_v1": "grpc/reflection/v1/reflection.proto",
    "reflection_v1alpha": "grpc/reflection/v1alpha/reflection.proto",
    "etcd": "etcd/v3/etcd.proto",
    "binarylog": "grpc/binlog/v1/binarylog.proto",
    "load": "meshtrio/v1/load.proto",
    "logging": "meshtrio/v1/logging.proto",
    "metrics": "meshtrio/v1/metrics.proto",
    "tap": "meshtrio/v1/tap.proto",
    "control": "meshtrio/v1/control.proto",
    "registry": "meshtrio/v1/registry.proto",
}
ECHO = ROOT / "examples" / "echo-plugin"
GENERATED_CODE = {
    ECHO / "echo/v1/echo_pb2.py": (ECHO, "python"),
    ECHO / "echo/v1/echo_pb2.pyi": (ECHO, "pyi"),
    ECHO / "echo/v1/echo_grpc.py": (ECHO, "meshtrio"),
    ROOT / "tests/support/purerpc_echo_grpc.py": (ECHO, "purerpc"),
    ROOT / "tests/interop/grpc_testing/interop_pb2.py": (ROOT, "python"),
    ROOT / "tests/interop/grpc_testing/interop_grpc.py": (ROOT, "purerpc"),
}
"""The folder of each file's proto, and the protoc plugin that makes the file; tests have stubs of
purerpc's own plugin, too."""
PROTOS_OF_CODE = {ECHO: "echo/v1/echo.proto", ROOT: "tests/interop/grpc_testing/interop.proto"}


def run_protoc(*arguments: str) -> None:
    if protoc.main(["protoc", *arguments]) != 0:
        sys.exit("protoc failed")


def generate_messages(out: Path) -> dict[Path, bytes]:
    """For each file its descriptor, for the private pool, and the types of its module."""
    descriptors = out / "descriptors.binpb"
    names = list(OURS.values())
    paths = [f"-I{PROTOS}", f"-I{Path(grpc_tools.__file__).parent / '_proto'}"]
    run_protoc(*paths, f"--descriptor_set_out={descriptors}", f"--pyi_out={out}", *names)
    parsed = FileDescriptorSet.FromString(descriptors.read_bytes())
    files = {file.name: file for file in parsed.file}
    modules = {proto: module for module, proto in OURS.items()}
    made = {}
    for module, proto in OURS.items():
        made[MESSAGES / f"{module}.binpb"] = files[proto].SerializeToString(deterministic=True)
        types = (out / proto.replace(".proto", "_pb2.pyi")).read_text()
        for name in (modules[n] for n in files[proto].dependency if n in modules):
            types = re.sub(rf"from \S+ import {name}_pb2", f"from {PACKAGE} import {name}", types)
        made[MESSAGES / f"{module}.pyi"] = types.encode()
    return made


def generate_code(path: Path, folder: Path, plugin: str, out: Path) -> bytes:
    proto, out = PROTOS_OF_CODE[folder], out / plugin
    out.mkdir(exist_ok=True)
    run_protoc(f"-I{folder}", f"--{plugin}_out={out}", proto)
    ending = "_grpc.py" if path.stem.endswith("_grpc") else f"_pb2{path.suffix}"
    return (out / f"{proto.removesuffix('.proto')}{ending}").read_bytes()


def main() -> None:
    made: dict[Path, bytes] = {}
    with tempfile.TemporaryDirectory() as name:
        made |= generate_messages(Path(name))
        for path, (folder, plugin) in GENERATED_CODE.items():
            made[path] = generate_code(path, folder, plugin, Path(name))
    stale = [p for p, data in made.items() if not p.exists() or p.read_bytes() != data]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is not what protos/generate.py makes", file=sys.stderr)
        sys.exit(bool(stale))
    for path in stale:
        path.write_bytes(made[path])
        print(f"wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
