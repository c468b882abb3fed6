"""Replies as bytes, to be parsed elsewhere: in parts, in a thread, or not at all."""

from __future__ import annotations

from typing import Any

import attrs
from google.protobuf.descriptor import MethodDescriptor

from meshtrio.rpc.dynamic import method_of
from meshtrio.rpc.seam import Method


@attrs.frozen
class RawReply:
    """Stands for a message class as the type of a method's replies."""

    data: bytes

    @classmethod
    def FromString(cls, data: Any) -> RawReply:  # noqa: N802 - protobuf's name
        return cls(bytes(data))


def raw_method_of(descriptor: MethodDescriptor) -> Method:
    """The method that a descriptor describes, with replies that are not parsed."""
    return attrs.evolve(method_of(descriptor), response_type=RawReply)
