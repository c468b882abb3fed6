"""Replies as bytes, for callers that parse them in parts, in a thread, or not at all."""

from __future__ import annotations

from typing import Any

import attrs
from google.protobuf.descriptor import MethodDescriptor

from meshtrio.rpc.method import Method
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor


@attrs.frozen
class RawReply:
    """Takes the place of a message class as the type of a method's replies."""

    data: bytes
    """The serialized reply."""

    @classmethod
    def FromString(cls, data: Any) -> RawReply:  # noqa: N802 - protobuf's name
        return cls(bytes(data))


def make_raw_method(descriptor: MethodDescriptor) -> Method:
    """Return the method of a descriptor, with replies that are not parsed."""
    return attrs.evolve(method_from_descriptor(descriptor), response_type=RawReply)
