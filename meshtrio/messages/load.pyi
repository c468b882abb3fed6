from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Optional as _Optional

DESCRIPTOR: _descriptor.FileDescriptor

class WatchLoadRequest(_message.Message):
    __slots__ = ("interval",)
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    interval: float
    def __init__(self, interval: _Optional[float] = ...) -> None: ...

class LoadReport(_message.Message):
    __slots__ = ("started", "ended", "failed", "in_flight", "median", "p99")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    started: int
    ended: int
    failed: int
    in_flight: int
    median: float
    p99: float
    def __init__(self, started: _Optional[int] = ..., ended: _Optional[int] = ..., failed: _Optional[int] = ..., in_flight: _Optional[int] = ..., median: _Optional[float] = ..., p99: _Optional[float] = ...) -> None: ...
