"""The text of a generated file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from meshtrio.codegen.naming import (
    MessageClass,
    Types,
    alias_of,
    importable,
    method_names,
    unlike,
)

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

from meshtrio import {stubs}
'''
_METHOD_STUB = (
    "        self.{name}: {stubs}.{kind}[{types}] = client.get_method_stub(\n"
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
    header = _HEADER.format(
        proto=_quoted(file.name),
        imports=writer.imports(file.service),
        stubs=writer.imported("stubs"),
    )
    return "\n\n".join([header, *parts])


class _Writer:
    def __init__(self, file: FileDescriptorProto, types: Types) -> None:
        self._package = file.package
        self._types = types
        self._names = [method_names([m.name for m in s.method]) for s in file.service]
        self._taken = {name for names in self._names for name in names.values()}
        self._aliases: dict[str, str] = {}

    # -- names -------------------------------------------------------------------------------

    def name(self, name: str) -> str:
        """What is imported under a name: a method of that name hides it in the body of a class."""
        return unlike(name, self._taken)

    def imported(self, name: str) -> str:
        """The part of an import statement after `import`."""
        return name if self.name(name) == name else f"{name} as {self.name(name)}"

    def _alias(self, module: str) -> str:
        if module not in self._aliases:
            taken = {*self._taken, *self._aliases.values()}
            self._aliases[module] = unlike(alias_of(module), taken)
        return self._aliases[module]

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
        plain = {each.module for each in used if importable(each.module)}
        odd = {each.module for each in used} - plain
        lines = [f"import {self.imported('importlib')}"] if odd else []
        streams = any(m.client_streaming or m.server_streaming for s in services for m in s.method)
        if streams:
            lines.append(f"from collections.abc import {self.imported('AsyncIterator')}")
        if any(not each.plain for each in used):
            lines.append(f"from typing import {self.imported('Any')}")
        lines += [""] if lines else []
        lines += [f"import {module} as {self._alias(module)}" for module in sorted(plain)]
        load = f"{self.name('importlib')}.import_module"
        lines += [f'{self._alias(module)} = {load}("{module}")' for module in sorted(odd)]
        return "\n".join(lines)

    def _value(self, name: str) -> str:
        found = self._types.find(name)
        return found.expression(self._alias(found.module))

    def _type(self, name: str) -> str:
        """As an annotation, which a class whose name has to be looked up cannot be."""
        return self._value(name) if self._types.find(name).plain else self.name("Any")

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
        return f"{self.name('stubs')}.signature(\n{inside}{indent})"

    # -- classes -----------------------------------------------------------------------------

    def servicer(
        self, service: ServiceDescriptorProto, comments: Comments, path: tuple[int, ...]
    ) -> str:
        names, stubs = self._names[path[-1]], self.name("stubs")
        text = f"class {service.name}Servicer({stubs}.Servicer):\n"
        text += _docstring(comments.get(path, ""), "    ", after="\n")
        # Before the methods, since one of them may be called `property`.
        text += f"    @property\n    def service(self) -> {stubs}.Service:\n"
        text += f'        service = {stubs}.Service("{self._full_name(service)}")\n'
        for method in service.method:
            text += _METHOD_ADDED.format(
                rpc=method.name,
                name=names[method.name],
                signature=self._signature(method, " " * 12),
            )
        text += "        return service\n"
        for number, method in enumerate(service.method):
            comment = comments.get((*path, _METHODS, number), "")
            text += "\n" + self._handler(
                method, names[method.name], _docstring(comment, "        ")
            )
        return text

    def _handler(self, method: MethodDescriptorProto, name: str, docstring: str) -> str:
        iterator = self.name("AsyncIterator")
        argument, request = "message", self._type(method.input_type)
        if method.client_streaming:
            argument, request = "messages", f"{iterator}[{request}]"
        reply = self._type(method.output_type)
        # An async generator, as it is overridden with, is a plain function that gives an iterator.
        define = "async def"
        if method.server_streaming:
            define, reply = "def", f"{iterator}[{reply}]"
        return (
            f"    {define} {name}(self, {argument}: {request}) -> {reply}:\n"
            f"{docstring}        raise NotImplementedError\n"
        )

    def stub(
        self, service: ServiceDescriptorProto, comments: Comments, path: tuple[int, ...]
    ) -> str:
        names, stubs = self._names[path[-1]], self.name("stubs")
        text = f"class {service.name}Stub:\n"
        text += _docstring(comments.get(path, ""), "    ", after="\n")
        text += "    def __init__(self, channel: object) -> None:\n"
        text += f'        client = {stubs}.Client("{self._full_name(service)}", channel)\n'
        text += "        self._client = client\n"
        for number, method in enumerate(service.method):
            types = f"{self._type(method.input_type)}, {self._type(method.output_type)}"
            text += _METHOD_STUB.format(
                name=names[method.name],
                stubs=stubs,
                kind=_KINDS[method.client_streaming, method.server_streaming],
                types=types,
                rpc=method.name,
                signature=self._signature(method, " " * 12),
            )
            text += _docstring(comments.get((*path, _METHODS, number), ""), "        ")
        return text


def _quoted(text: str) -> str:
    """Text inside a docstring, which it may not end or change."""
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def _docstring(comment: str, indent: str, after: str = "") -> str:
    """A comment of the proto as a docstring, "" where there is none."""
    lines = [line.strip() for line in comment.strip().splitlines()]
    if not lines:
        return ""
    # What would end or change the string is kept from doing so.
    lines = [_quoted(line) for line in lines]
    if lines[-1].endswith('"'):
        lines[-1] += " "
    if len(lines) > 1:
        lines.append("")
    body = f"\n{indent}".join(lines).replace(f"\n{indent}\n", "\n\n")
    return f'{indent}"""{body}"""\n{after}'
