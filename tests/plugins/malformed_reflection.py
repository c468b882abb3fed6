"""A plugin whose reflection must not be trusted: `python malformed_reflection.py KIND`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator

from google.protobuf.descriptor_pb2 import FileDescriptorProto

from meshtrio.messages import reflection_v1 as reflection

MIB = 1024 * 1024


def file(name: str, *imports: str) -> FileDescriptorProto:
    return FileDescriptorProto(name=name, package="bad", dependency=imports)


def service(*imports: str) -> FileDescriptorProto:
    made = file("service.proto", *imports)
    made.message_type.add(name="Empty")
    method = made.service.add(name="Service").method.add(name="Call")
    method.input_type = method.output_type = ".bad.Empty"
    return made


def answer(*files: bytes) -> bytes:
    inner = reflection.FileDescriptorResponse(file_descriptor_proto=files)
    reply = reflection.ServerReflectionResponse(file_descriptor_response=inner)
    return bytes(reply.SerializeToString())


def listing(*names: str) -> bytes:
    found = [reflection.ServiceResponse(name=name) for name in names]
    inner = reflection.ListServiceResponse(service=found)
    reply = reflection.ServerReflectionResponse(list_services_response=inner)
    return bytes(reply.SerializeToString())


def messages_within_messages() -> bytes:
    """Each declaration has the names of all that it is in: the whole has 790 MB of names."""
    made = service()
    outer = made.message_type.add(name="A" * 1000)
    for _ in range(20):
        outer = outer.nested_type.add(name="A" * 1000)
    for number in range(39_000):
        outer.nested_type.add(name=f"B{number}")
    return bytes(made.SerializeToString())


def many_messages() -> bytes:
    made = service()
    for number in range(300_000):
        made.message_type.add(name=f"M{number}")
    data: bytes = made.SerializeToString()
    assert 3 * MIB < len(data) < 4 * MIB
    return data


def not_utf8() -> bytes:
    return bytes(service("imported").SerializeToString().replace(b"imported", b"import\xff\xfe"))


def chain(name: str) -> bytes:
    """Files that import one another without end."""
    number = int(name.removesuffix(".proto")) if name[0].isdigit() else 0
    made = service("1.proto") if number == 0 else file(name, f"{number + 1}.proto")
    return bytes(made.SerializeToString())


FILES: dict[str, Callable[[str], bytes]] = {
    "not-utf8": lambda _: not_utf8(),
    "circle": lambda name: bytes(
        (file(name, "service.proto") if name == "b" else service("b")).SerializeToString()
    ),
    "chain": chain,
    "many": lambda _: many_messages(),
    "nested": lambda _: messages_within_messages(),
    "empty": lambda _: b"",
    "garbage": lambda _: b"\xff" * 1000,
    "groups": lambda _: b"\x0b" * MIB,
    "numbers": lambda _: b"\x50\x00" * (MIB // 4),
}
LISTS = {
    "names": lambda: b"\x32\x80\x80\x80\x01" + b"\x0a\x00" * MIB,
    "services": lambda: listing(*(f"s{number}" for number in range(100_000))),
    "no-list": lambda: b"\x32\x05\x0a",
    "fields": lambda: b"\x08\x01" * (3 * MIB // 2),
    "odd": lambda: listing("", "/", "a b", "\x1b[2J", "x" * 5000),
}


def answered(kind: str, requests: Iterable[bytes]) -> Iterator[bytes]:
    for data in requests:
        request = reflection.ServerReflectionRequest.FromString(data)
        if request.HasField("list_services"):
            yield LISTS[kind]() if kind in LISTS else listing("bad.Service")
        else:
            make = FILES.get(kind, lambda _: service().SerializeToString())
            yield answer(make(request.file_by_filename or request.file_containing_symbol))


if __name__ == "__main__":
    from raw_grpcio_server import serve

    path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
    serve({path: lambda requests: answered(sys.argv[1], requests)})
