"""Renders the text of a generated file."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf.descriptor_pb2 import (
    FileDescriptorProto,
    MethodDescriptorProto,
    ServiceDescriptorProto,
)

from meshtrio.codegen.naming import (
    MessageTypes,
    is_importable,
    make_unique,
    module_alias,
    python_method_names,
)

_SERVICE_FIELD, _METHOD_FIELD = 6, 2
"""Field numbers of FileDescriptorProto and ServiceDescriptorProto, used in paths of comments."""
_MULTICALLABLES = {
    (False, False): ("UnaryUnary", "unary_unary"),
    (False, True): ("UnaryStream", "unary_stream"),
    (True, False): ("StreamUnary", "stream_unary"),
    (True, True): ("StreamStream", "stream_stream"),
}
"""The type of a stub's method and the channel's method that makes it, by which sides stream."""
_HEADER_TEMPLATE = '''"""The services of {proto}; made by protoc-gen-meshtrio, not to be edited."""

from __future__ import annotations

{imports}

from meshtrio import {stubs}
'''
_STUB_METHOD_TEMPLATE = (
    "        self.{name}: {stubs}.{kind}[{types}] = channel.{maker}(\n"
    '            "/{service}/{rpc}",\n'
    "            {request},\n"
    "            {reply},\n"
    "        )\n"
)
_ADD_METHOD_TEMPLATE = (
    "        service.add_method(\n"
    '            "{rpc}",\n'
    "            self.{name},\n"
    "            {signature},\n"
    "        )\n"
)


def render_file(file: FileDescriptorProto, types: MessageTypes) -> str:
    """Render the servicers and stubs of a file's services."""
    writer = _Writer(file, types)
    parts = [
        render(number, service)
        for number, service in enumerate(file.service)
        for render in (writer.render_servicer, writer.render_stub)
    ]
    header = _HEADER_TEMPLATE.format(
        proto=_escape_docstring(file.name),
        imports=writer.render_imports(file.service),
        stubs=writer.import_clause("stubs"),
    )
    return "\n\n".join([header, *parts])


class _Writer:
    def __init__(self, file: FileDescriptorProto, types: MessageTypes) -> None:
        self._package = file.package
        self._types = types
        self._names = [python_method_names([m.name for m in s.method]) for s in file.service]
        self._method_name_set = {name for names in self._names for name in names.values()}
        self._aliases: dict[str, str] = {}
        places = file.source_code_info.location
        self._comments = {tuple(place.path): place.leading_comments for place in places}

    def _docstring(self, *path: int, after: str = "") -> str:
        """Render the comment of a service or method (see SourceCodeInfo.Location); "" for none."""
        indent = " " * (4 if len(path) == 1 else 8)
        return _render_docstring(self._comments.get((_SERVICE_FIELD, *path), ""), indent, after)

    # -- names -------------------------------------------------------------------------------

    def local_name(self, name: str) -> str:
        """Return the local name of an import; a method would hide an import of its own name."""
        return make_unique(name, self._method_name_set)

    def import_clause(self, name: str) -> str:
        """Return the part of an import statement after `import`."""
        return name if self.local_name(name) == name else f"{name} as {self.local_name(name)}"

    def _alias_for(self, module: str) -> str:
        if module not in self._aliases:
            taken = {*self._method_name_set, *self._aliases.values()}
            self._aliases[module] = make_unique(module_alias(module), taken)
        return self._aliases[module]

    def render_imports(self, services: Sequence[ServiceDescriptorProto]) -> str:
        methods = [method for service in services for method in service.method]
        names = {name for m in methods for name in (m.input_type, m.output_type)}
        classes = [self._types.find(name) for name in sorted(names)]
        importable = {each.module for each in classes if is_importable(each.module)}
        others = {each.module for each in classes} - importable
        lines = [f"import {self.import_clause('importlib')}"] if others else []
        if any(m.client_streaming or m.server_streaming for m in methods):
            lines.append(f"from collections.abc import {self.import_clause('AsyncIterator')}")
        if any(not each.is_plain for each in classes):
            lines.append(f"from typing import {self.import_clause('Any')}")
        lines += [""] if lines else []
        lines += [f"import {module} as {self._alias_for(module)}" for module in sorted(importable)]
        load = f"{self.local_name('importlib')}.import_module"
        lines += [f'{self._alias_for(module)} = {load}("{module}")' for module in sorted(others)]
        return "\n".join(lines)

    def _class_expression(self, name: str) -> str:
        message_class = self._types.find(name)
        return message_class.expression(self._alias_for(message_class.module))

    def _annotation(self, name: str) -> str:
        """Render a type annotation; a class that needs `getattr` cannot be one, and becomes Any."""
        is_plain = self._types.find(name).is_plain
        return self._class_expression(name) if is_plain else self.local_name("Any")

    def _full_name(self, service: ServiceDescriptorProto) -> str:
        return f"{self._package}.{service.name}" if self._package else service.name

    def _render_signature(self, method: MethodDescriptorProto) -> str:
        request, reply = map(self._class_expression, (method.input_type, method.output_type))
        streams = f"stream_in={method.client_streaming}", f"stream_out={method.server_streaming}"
        inside = "".join(f"{' ' * 16}{value},\n" for value in (request, reply, *streams))
        return f"{self.local_name('stubs')}.signature(\n{inside}{' ' * 12})"

    # -- classes -----------------------------------------------------------------------------

    def render_servicer(self, number: int, service: ServiceDescriptorProto) -> str:
        names, stubs = self._names[number], self.local_name("stubs")
        text = f"class {service.name}Servicer({stubs}.Servicer):\n"
        text += self._docstring(number, after="\n")
        # The property precedes the methods, one of which may be named `property`.
        text += f"    @property\n    def service(self) -> {stubs}.Service:\n"
        text += f'        service = {stubs}.Service("{self._full_name(service)}")\n'
        for method in service.method:
            text += _ADD_METHOD_TEMPLATE.format(
                rpc=method.name, name=names[method.name], signature=self._render_signature(method)
            )
        text += "        return service\n"
        for position, method in enumerate(service.method):
            docstring = self._docstring(number, _METHOD_FIELD, position)
            text += "\n" + self._render_handler(method, names[method.name], docstring)
        return text

    def _render_handler(self, method: MethodDescriptorProto, name: str, docstring: str) -> str:
        iterator = self.local_name("AsyncIterator")
        argument, request = "message", self._annotation(method.input_type)
        if method.client_streaming:
            argument, request = "messages", f"{iterator}[{request}]"
        reply = self._annotation(method.output_type)
        # It is overridden by an async generator: a plain function that returns an iterator.
        define = "async def"
        if method.server_streaming:
            define, reply = "def", f"{iterator}[{reply}]"
        return (
            f"    {define} {name}(self, {argument}: {request}) -> {reply}:\n"
            f"{docstring}        raise NotImplementedError\n"
        )

    def render_stub(self, number: int, service: ServiceDescriptorProto) -> str:
        names, stubs = self._names[number], self.local_name("stubs")
        text = f"class {service.name}Stub:\n"
        text += self._docstring(number, after="\n")
        text += f"    def __init__(self, channel: {stubs}.Channel) -> None:\n"
        text += "" if service.method else "        pass\n"
        for position, method in enumerate(service.method):
            kind, maker = _MULTICALLABLES[method.client_streaming, method.server_streaming]
            text += _STUB_METHOD_TEMPLATE.format(
                name=names[method.name],
                stubs=stubs,
                kind=kind,
                types=", ".join(map(self._annotation, (method.input_type, method.output_type))),
                maker=maker,
                service=self._full_name(service),
                rpc=method.name,
                request=self._class_expression(method.input_type),
                reply=self._class_expression(method.output_type),
            )
            text += self._docstring(number, _METHOD_FIELD, position)
        return text


def _escape_docstring(text: str) -> str:
    """Escape text for a docstring."""
    return text.replace("\\", "\\\\").replace('"""', '\\"\\"\\"')


def _render_docstring(comment: str, indent: str, after: str = "") -> str:
    """Render a comment of the proto file as a docstring, "" if there is none."""
    lines = [_escape_docstring(line.strip()) for line in comment.strip().splitlines()]
    if not lines:
        return ""
    if lines[-1].endswith('"'):
        lines[-1] += " "
    if len(lines) > 1:
        lines.append("")
    body = f"\n{indent}".join(lines).replace(f"\n{indent}\n", "\n\n")
    return f'{indent}"""{body}"""\n{after}'
