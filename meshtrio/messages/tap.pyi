from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchCallsRequest(_message.Message):
    __slots__ = ("method", "failed", "at_least")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    AT_LEAST_FIELD_NUMBER: _ClassVar[int]
    method: str
    failed: bool
    at_least: float
    def __init__(self, method: _Optional[str] = ..., failed: bool = ..., at_least: _Optional[float] = ...) -> None: ...

class EndedCalls(_message.Message):
    __slots__ = ("calls", "missed")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[EndedCall]
    missed: int
    def __init__(self, calls: _Optional[_Iterable[_Union[EndedCall, _Mapping]]] = ..., missed: _Optional[int] = ...) -> None: ...

class EndedCall(_message.Message):
    __slots__ = ("time", "method", "seconds", "status", "message", "peer", "forwarded_for", "received", "sent", "trace_id")
    TIME_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    FORWARDED_FOR_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    SENT_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    time: float
    method: str
    seconds: float
    status: int
    message: str
    peer: str
    forwarded_for: str
    received: int
    sent: int
    trace_id: str
    def __init__(self, time: _Optional[float] = ..., method: _Optional[str] = ..., seconds: _Optional[float] = ..., status: _Optional[int] = ..., message: _Optional[str] = ..., peer: _Optional[str] = ..., forwarded_for: _Optional[str] = ..., received: _Optional[int] = ..., sent: _Optional[int] = ..., trace_id: _Optional[str] = ...) -> None: ...
