"""The text of a generated file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from meshtrio.codegen.naming import MessageClass, Types, python_name

_SERVICES, _METHODS = 6, 2
"""Field numbers in FileDescriptorProto and ServiceDescriptorProto, of which paths are made."""
_KINDS = {
    (False, False): "UnaryUnary",
    (False, True): "UnaryStream",
    (True, False): "StreamUnary",
    (True, True): "StreamStream",
}
_HEADER = '''"""The services of {proto}; made by protoc-gen-meshtrio, not to be edited."""

from __future__ import annotations

{imports}

from meshtrio import stubs
'''
_METHOD_STUB = (
    "        self.{name}: stubs.{kind}[{types}] = client.get_method_stub(\n"
    '            "{rpc}", {signature}\n'
    "        )\n"
)
_METHOD_ADDED = (
    "        service.add_method(\n"
    '            "{rpc}",\n'
    "            self.{name},\n"
    "            {signature},\n"
    "        )\n"
)

Comments = Mapping[tuple[int, ...], str]


def render(file: FileDescriptorProto, types: Types) -> str:
    """Write the servicers and stubs of a file's services."""
    comments = {
        tuple(place.path): place.leading_comments
        for place in file.source_code_info.location
        if place.leading_comments
    }
    writer = _Writer(file, types)
    parts = []
    for number, service in enumerate(file.service):
        path = (_SERVICES, number)
        parts.append(writer.servicer(service, comments, path))
        parts.append(writer.stub(service, comments, path))
    header = _HEADER.format(proto=file.name, imports=writer.imports(file.service))
    return "\n\n".join([header, *parts])


class _Writer:
    def __init__(self, file: FileDescriptorProto, types: Types) -> None:
        self._package = file.package
        self._types = types

    # -- names -------------------------------------------------------------------------------

    def _used(self, services: Iterable[ServiceDescriptorProto]) -> list[MessageClass]:
        names = {
            name
            for service in services
            for method in service.method
            for name in (method.input_type, method.output_type)
        }
        return [self._types.find(name) for name in sorted(names)]

    def imports(self, services: Sequence[ServiceDescriptorProto]) -> str:
        used = self._used(services)
        plain = {each.module for each in used if _importable(each.module)}
        odd = {each.module for each in used} - plain
        lines = ["import importlib"] if odd else []
        streams = any(m.client_streaming or m.server_streaming for s in services for m in s.method)
        if streams:
            lines.append("from collections.abc import AsyncIterator")
        if any(not each.plain for each in used):
            lines.append("from typing import Any")
        lines += [""] if lines else []
        lines += [f"import {module} as {_alias(module)}" for module in sorted(plain)]
        lines += [f'{_alias(m)} = importlib.import_module("{m}")' for m in sorted(odd)]
        return "\n".join(lines)

    def _value(self, name: str) -> str:
        found = self._types.find(name)
        return found.expression(_alias(found.module))

    def _type(self, name: str) -> str:
        """As an annotation, which a class whose name has to be looked up cannot be."""
        return self._value(name) if self._types.find(name).plain else "Any"

    def _full_name(self, service: ServiceDescriptorProto) -> str:
        return f"{self._package}.{service.name}" if self._package else service.name

    def _signature(self, method: MethodDescriptorProto, indent: str) -> str:
        values = [
            self._value(method.input_type),
            self._value(method.output_type),
            f"stream_in={method.client_streaming}",
            f"stream_out={method.server_streaming}",
        ]
        inside = "".join(f"{indent}    {value},\n" for value in values)
        return f"stubs.signature(\n{inside}{indent})"

    # -- classes -----------------------------------------------------------------------------

    def servicer(
        self, service: ServiceDescriptorProto, comments: Comments, path: tuple[int, ...]
    ) -> str:
        text = f"class {service.name}Servicer(stubs.Servicer):\n"
        text += _docstring(comments.get(path, ""), "    ", after="\n")
        for number, method in enumerate(service.method):
            comment = comments.get((*path, _METHODS, number), "")
            text += self._handler(method, _docstring(comment, "        ")) + "\n"
        text += "    @property\n    def service(self) -> stubs.Service:\n"
        text += f'        service = stubs.Service("{self._full_name(service)}")\n'
        for method in service.method:
            text += _METHOD_ADDED.format(
                rpc=method.name,
                name=python_name(method.name),
                signature=self._signature(method, " " * 12),
            )
        return text + "        return service\n"

    def _handler(self, method: MethodDescriptorProto, docstring: str) -> str:
        argument, request = "message", self._type(method.input_type)
        if method.client_streaming:
            argument, request = "messages", f"AsyncIterator[{request}]"
        reply = self._type(method.output_type)
        # An async generator, as it is overridden with, is a plain function that gives an iterator.
        define = "async def"
        if method.server_streaming:
            define, reply = "def", f"AsyncIterator[{reply}]"
        name = python_name(method.name)
        return (
            f"    {define} {name}(self, {argument}: {request}) -> {reply}:\n"
            f"{docstring}        raise NotImplementedError\n"
        )

    def stub(
        self, service: ServiceDescriptorProto, comments: Comments, path: tuple[int, ...]
    ) -> str:
        text = f"class {service.name}Stub:\n"
        text += _docstring(comments.get(path, ""), "    ", after="\n")
        text += "    def __init__(self, channel: object) -> None:\n"
        text += f'        client = stubs.Client("{self._full_name(service)}", channel)\n'
        text += "        self._client = client\n"
        for number, method in enumerate(service.method):
            types = f"{self._type(method.input_type)}, {self._type(method.output_type)}"
            text += _METHOD_STUB.format(
                name=python_name(method.name),
                kind=_KINDS[method.client_streaming, method.server_streaming],
                types=types,
                rpc=method.name,
                signature=self._signature(method, " " * 12),
            )
            text += _docstring(comments.get((*path, _METHODS, number), ""), "        ")
        return text


def _alias(module: str) -> str:
    return module.replace("_", "__").replace(".", "_")


def _importable(module: str) -> bool:
    return all(part == python_name(part) and part.isidentifier() for part in module.split("."))


def _docstring(comment: str, indent: str, after: str = "") -> str:
    """A comment of the proto as a docstring, "" where there is none."""
    lines = [line.strip() for line in comment.strip().splitlines()]
    if not lines:
        return ""
    # What would end or change the string is kept from doing so.
    lines = [line.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') for line in lines]
    if lines[-1].endswith('"'):
        lines[-1] += " "
    if len(lines) > 1:
        lines.append("")
    body = f"\n{indent}".join(lines).replace(f"\n{indent}\n", "\n\n")
    return f'{indent}"""{body}"""\n{after}'
