"""protoc-gen-meshtrio: typed servicers and stubs, in the shape that purerpc's have.

    python -m grpc_tools.protoc -I. --python_out=. --pyi_out=. --meshtrio_out=. echo/v1/echo.proto

A file of services `a/b.proto` becomes `a/b_grpc.py`. Methods whose names are keywords, `service` or
`_client` get an underscore at the end (`import_`), and those that begin with two underscores get
`rpc` in front (`rpc__init__`). Source: google/protobuf/compiler/plugin.proto.
"""

from __future__ import annotations

import sys

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import Edition

from meshtrio.codegen.naming import MessageTypes, generated_file_name
from meshtrio.codegen.render import render_file


def generate(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Answer protoc: a file for each one that was asked for and has services."""
    response = CodeGeneratorResponse()
    response.supported_features = (
        CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL
        | CodeGeneratorResponse.FEATURE_SUPPORTS_EDITIONS
    )
    response.minimum_edition = Edition.EDITION_PROTO2
    response.maximum_edition = Edition.EDITION_2024
    types = MessageTypes(request.proto_file)
    wanted = frozenset(request.file_to_generate)
    for file in request.proto_file:
        if file.name in wanted and file.service:
            made = response.file.add()
            made.name = generated_file_name(file.name)
            made.content = render_file(file, types)
    return response


def main() -> None:
    """The console script, as protoc runs it: a request on stdin, the response on stdout."""
    request = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(generate(request).SerializeToString())
