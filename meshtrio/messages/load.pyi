from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchLoadRequest(_message.Message):
    __slots__ = ("interval", "by_method")
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    BY_METHOD_FIELD_NUMBER: _ClassVar[int]
    interval: float
    by_method: bool
    def __init__(self, interval: _Optional[float] = ..., by_method: bool = ...) -> None: ...

class LoadReport(_message.Message):
    __slots__ = ("started", "ended", "failed", "in_flight", "median", "p99", "methods")
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    MEDIAN_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    started: int
    ended: int
    failed: int
    in_flight: int
    median: float
    p99: float
    methods: _containers.RepeatedCompositeFieldContainer[MethodLoad]
    def __init__(self, started: _Optional[int] = ..., ended: _Optional[int] = ..., failed: _Optional[int] = ..., in_flight: _Optional[int] = ..., median: _Optional[float] = ..., p99: _Optional[float] = ..., methods: _Optional[_Iterable[_Union[MethodLoad, _Mapping]]] = ...) -> None: ...

class MethodLoad(_message.Message):
    __slots__ = ("method", "started", "in_flight", "ended", "latency")
    class EndedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: int
        value: int
        def __init__(self, key: _Optional[int] = ..., value: _Optional[int] = ...) -> None: ...
    METHOD_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    LATENCY_FIELD_NUMBER: _ClassVar[int]
    method: str
    started: int
    in_flight: int
    ended: _containers.ScalarMap[int, int]
    latency: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, method: _Optional[str] = ..., started: _Optional[int] = ..., in_flight: _Optional[int] = ..., ended: _Optional[_Mapping[int, int]] = ..., latency: _Optional[_Iterable[int]] = ...) -> None: ...
