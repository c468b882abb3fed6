"""The types of the method of `meshtrio call`: from files, else from the server's reflection."""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError

from meshtrio.cli.code_commands import protoc
from meshtrio.client import reflection
from meshtrio.client.channel import Channel
from meshtrio.client.descriptor_pool_builder import build_pool
from meshtrio.util.errors import UsageError
from meshtrio.util.protobuf_wire import MalformedProtobufError

_WELL_KNOWN_PREFIX = "google/protobuf/"
_PROTOSET_HINT = "make it with protoc --include_imports --descriptor_set_out=FILE"


def load_types(
    protosets: Sequence[Path], protos: Sequence[Path], folders: Sequence[Path]
) -> DescriptorPool | None:
    """Read the types of files given as `--protoset` and `--proto`; None if there are none.

    Raises UsageError if a file cannot be read or compiled, or if files contradict each other.
    """
    if not protosets and not protos:
        return None
    sets = [(path.name, _read_protoset(path)) for path in protosets]
    if protos:
        sets.append(("--proto", _compile(protos, folders)))
    files: dict[str, FileDescriptorProto] = {}
    for source, found in sets:
        for file in found.file:
            if not file.name:
                raise UsageError(f"{source} is not a FileDescriptorSet: a file in it has no name")
            files.setdefault(file.name, file)
    missing = {name for file in files.values() for name in file.dependency} - files.keys()
    for name in missing:
        _add_well_known(files, name)
    try:
        return build_pool(files)
    except (TypeError, MalformedProtobufError) as exc:
        given = ", ".join(map(str, (*protosets, *protos)))
        raise UsageError(f"the types in {given} contradict each other: {exc}") from None


async def resolve_method(
    channel: Channel, method: str, server: str, types: DescriptorPool | None
) -> MethodDescriptor:
    """Look up a method in `types`, or if that is None, by the server's reflection.

    Raises UsageError if there is no such method, or the server offers no reflection.
    """
    service, _ = reflection.split_method(method)
    if types is not None:
        return reflection.find_method(types, method, "the given files")
    try:
        pool = (await reflection.fetch_types(channel, service, server=server)).pool
    except reflection.ReflectionUnavailableError:
        raise reflection.ReflectionError(
            f"{server} does not support reflection: give the types of {service} with --proto FILE "
            "or --protoset FILE"
        ) from None
    return reflection.find_method(pool, method, server)


def _read_protoset(path: Path) -> FileDescriptorSet:
    try:
        data = path.read_bytes()
    except OSError as exc:
        raise UsageError(f"--protoset {path}: cannot be read: {exc.strerror}") from None
    try:
        return FileDescriptorSet.FromString(data)
    except DecodeError:
        problem = f"--protoset {path}: is not a FileDescriptorSet; {_PROTOSET_HINT}"
        raise UsageError(problem) from None


def _add_well_known(files: dict[str, FileDescriptorProto], name: str) -> None:
    """Add a file that comes with protobuf. Raises UsageError for any other."""
    if name.startswith(_WELL_KNOWN_PREFIX):
        with suppress(ModuleNotFoundError):
            module = importlib.import_module(f"{name.removesuffix('.proto').replace('/', '.')}_pb2")
            files[name] = FileDescriptorProto.FromString(module.DESCRIPTOR.serialized_pb)
            for needed in set(files[name].dependency) - files.keys():
                _add_well_known(files, needed)
            return
    user = next(file.name for file in files.values() if name in file.dependency)
    raise UsageError(f"the protoset lacks {name}, which {user} imports; {_PROTOSET_HINT}")


def _compile(protos: Sequence[Path], folders: Sequence[Path]) -> FileDescriptorSet:
    if importlib.util.find_spec("grpc_tools") is None:
        raise UsageError(
            "--proto runs protoc, which is not installed: pip install 'meshtrio[gen]', or give a "
            "FileDescriptorSet with --protoset"
        )
    for proto in protos:
        if not any((folder / proto).is_file() for folder in (Path(), *folders)):
            raise UsageError(f"--proto {proto}: no such file")
    # By default, search the current folder and that of each file.
    include = folders or [Path(), *(proto.parent for proto in protos)]
    with tempfile.NamedTemporaryFile(prefix="meshtrio-") as made:
        options = "--include_imports", f"--descriptor_set_out={made.name}"
        done = protoc(*options, protos=protos, folders=include)
        if done.returncode != 0:
            raise UsageError(done.stderr.strip() or f"protoc failed with status {done.returncode}")
        return _read_protoset(Path(made.name))
