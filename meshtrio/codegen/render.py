"""Renders the text of a generated file."""

from __future__ import annotations

from collections.abc import Sequence

from google.protobuf import descriptor_pb2 as descriptors

from meshtrio.codegen import naming

_SERVICE_FIELD, _METHOD_FIELD = 6, 2
"""Field numbers of FileDescriptorProto and ServiceDescriptorProto, used in paths of comments."""
_HEADER_TEMPLATE = '''"""The services of {proto}; made by protoc-gen-meshtrio, not to be edited."""

from __future__ import annotations

{imports}

from meshtrio import {stubs}
'''


def render_file(file: descriptors.FileDescriptorProto, types: naming.MessageClasses) -> str:
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
    def __init__(self, file: descriptors.FileDescriptorProto, types: naming.MessageClasses) -> None:
        self._package = file.package
        self._types = types
        self._names = [naming.python_method_names([m.name for m in s.method]) for s in file.service]
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
        return naming.make_unique(name, self._method_name_set)

    def import_clause(self, name: str) -> str:
        """Return the part of an import statement after `import`."""
        return name if self.local_name(name) == name else f"{name} as {self.local_name(name)}"

    def _alias_for(self, module: str) -> str:
        if module not in self._aliases:
            taken = {*self._method_name_set, *self._aliases.values()}
            self._aliases[module] = naming.make_unique(naming.module_alias(module), taken)
        return self._aliases[module]

    def render_imports(self, services: Sequence[descriptors.ServiceDescriptorProto]) -> str:
        methods = [method for service in services for method in service.method]
        names = {name for m in methods for name in (m.input_type, m.output_type)}
        classes = [self._types[name] for name in sorted(names)]
        importable = {each.module for each in classes if naming.is_importable(each.module)}
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
        message_class = self._types[name]
        return message_class.expression(self._alias_for(message_class.module))

    def _annotation(self, name: str) -> str:
        """Render a type annotation; a class that needs `getattr` cannot be one, and becomes Any."""
        is_plain = self._types[name].is_plain
        return self._class_expression(name) if is_plain else self.local_name("Any")

    def _full_name(self, service: descriptors.ServiceDescriptorProto) -> str:
        return f"{self._package}.{service.name}" if self._package else service.name

    # -- classes -----------------------------------------------------------------------------

    def render_servicer(self, number: int, service: descriptors.ServiceDescriptorProto) -> str:
        names, stubs = self._names[number], self.local_name("stubs")
        text = f"class {service.name}Servicer({stubs}.Servicer):\n"
        text += self._docstring(number, after="\n")
        # The property precedes the methods, one of which may be named `property`.
        text += f"    @property\n    def service(self) -> {stubs}.Service:\n"
        text += f'        service = {stubs}.Service("{self._full_name(service)}")\n'
        for method in service.method:
            text += (
                "        service.add_method(\n"
                f'            "{method.name}",\n'
                f"            self.{names[method.name]},\n"
                f"            {stubs}.signature(\n"
                f"                {self._class_expression(method.input_type)},\n"
                f"                {self._class_expression(method.output_type)},\n"
                f"                stream_in={method.client_streaming},\n"
                f"                stream_out={method.server_streaming},\n"
                "            ),\n"
                "        )\n"
            )
        text += "        return service\n"
        for position, method in enumerate(service.method):
            docstring = self._docstring(number, _METHOD_FIELD, position)
            text += "\n" + self._render_handler(method, names[method.name], docstring)
        return text

    def _render_handler(
        self, method: descriptors.MethodDescriptorProto, name: str, docstring: str
    ) -> str:
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

    def render_stub(self, number: int, service: descriptors.ServiceDescriptorProto) -> str:
        names, stubs = self._names[number], self.local_name("stubs")
        text = f"class {service.name}Stub:\n"
        text += self._docstring(number, after="\n")
        text += f"    def __init__(self, channel: {stubs}.Channel) -> None:\n"
        text += "" if service.method else "        pass\n"
        for position, method in enumerate(service.method):
            streaming = method.client_streaming, method.server_streaming
            sides = ["stream" if streams else "unary" for streams in streaming]
            # The type of the stub's method, such as UnaryStream, and the channel's method for it.
            kind, make = "".join(map(str.title, sides)), "_".join(sides)
            types = ", ".join(map(self._annotation, (method.input_type, method.output_type)))
            text += (
                f"        self.{names[method.name]}: {stubs}.{kind}[{types}] = channel.{make}(\n"
                f'            "/{self._full_name(service)}/{method.name}",\n'
                f"            {self._class_expression(method.input_type)},\n"
                f"            {self._class_expression(method.output_type)},\n"
                "        )\n"
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
