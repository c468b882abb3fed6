"""Replies as bytes, to be parsed elsewhere: in parts, in a thread, or not at all."""

from __future__ import annotations

from typing import Any

import attrs
from google.protobuf.descriptor import MethodDescriptor

from meshtrio.rpc.method import Method
from meshtrio.rpc.protobuf_descriptors import method_from_descriptor


@attrs.frozen
class RawReply:
    """Stands for a message class as the type of a method's replies."""

    data: bytes

    @classmethod
    def FromString(cls, data: Any) -> RawReply:  # noqa: N802 - protobuf's name
        return cls(bytes(data))


def make_raw_method(descriptor: MethodDescriptor) -> Method:
    """The method that a descriptor describes, with replies that are not parsed."""
    return attrs.evolve(method_from_descriptor(descriptor), response_type=RawReply)
