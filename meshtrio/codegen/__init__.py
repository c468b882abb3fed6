"""protoc-gen-meshtrio, a protoc plugin: typed servicers and stubs of the same form as purerpc's.

    python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --meshtrio_out=. echo/v1/echo.proto

`a/b.proto` with services becomes `a/b_grpc.py`. `naming` maps proto names to Python names, `render`
writes the text, and `repair` mends the imports that protoc writes of modules whose names are no
identifiers. A method whose name is a keyword or `service` gets a trailing underscore
(`import_`); one that starts with two underscores gets the prefix `rpc` (`rpc__init__`).

Source: google/protobuf/compiler/plugin.proto.
"""

from __future__ import annotations

import sys

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition

from meshtrio.codegen.naming import find_message_classes, generated_file_name
from meshtrio.codegen.render import render_file


def generate(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Generate a file for each requested proto file that has services."""
    response = CodeGeneratorResponse()
    response.supported_features = (
        CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
        | CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS
    )
    response.minimum_edition = Edition.EDITION_PROTO2
    response.maximum_edition = Edition.EDITION_2024
    types = find_message_classes(request.proto_file)
    requested = frozenset(request.file_to_generate)
    for file in request.proto_file:
        if file.name in requested and file.service:
            generated = response.file.add()
            generated.name = generated_file_name(file.name)
            generated.content = render_file(file, types)
    return response


def main() -> None:
    """Run as a protoc plugin: read a request from stdin, write the response to stdout."""
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(generate(request).SerializeToString())
