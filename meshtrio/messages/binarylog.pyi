import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GrpcLogEntry(_message.Message):
    __slots__ = ("timestamp", "call_id", "sequence_id_within_call", "type", "logger", "client_header", "server_header", "message", "trailer", "payload_truncated", "peer")
    class EventType(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        EVENT_TYPE_UNKNOWN: _ClassVar[GrpcLogEntry.EventType]
        EVENT_TYPE_CLIENT_HEADER: _ClassVar[GrpcLogEntry.EventType]
        EVENT_TYPE_SERVER_HEADER: _ClassVar[GrpcLogEntry.EventType]
        EVENT_TYPE_CLIENT_MESSAGE: _ClassVar[GrpcLogEntry.EventType]
        EVENT_TYPE_SERVER_MESSAGE: _ClassVar[GrpcLogEntry.EventType]
        EVENT_TYPE_CLIENT_HALF_CLOSE: _ClassVar[GrpcLogEntry.EventType]
        EVENT_TYPE_SERVER_TRAILER: _ClassVar[GrpcLogEntry.EventType]
        EVENT_TYPE_CANCEL: _ClassVar[GrpcLogEntry.EventType]
    EVENT_TYPE_UNKNOWN: GrpcLogEntry.EventType
    EVENT_TYPE_CLIENT_HEADER: GrpcLogEntry.EventType
    EVENT_TYPE_SERVER_HEADER: GrpcLogEntry.EventType
    EVENT_TYPE_CLIENT_MESSAGE: GrpcLogEntry.EventType
    EVENT_TYPE_SERVER_MESSAGE: GrpcLogEntry.EventType
    EVENT_TYPE_CLIENT_HALF_CLOSE: GrpcLogEntry.EventType
    EVENT_TYPE_SERVER_TRAILER: GrpcLogEntry.EventType
    EVENT_TYPE_CANCEL: GrpcLogEntry.EventType
    class Logger(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        LOGGER_UNKNOWN: _ClassVar[GrpcLogEntry.Logger]
        LOGGER_CLIENT: _ClassVar[GrpcLogEntry.Logger]
        LOGGER_SERVER: _ClassVar[GrpcLogEntry.Logger]
    LOGGER_UNKNOWN: GrpcLogEntry.Logger
    LOGGER_CLIENT: GrpcLogEntry.Logger
    LOGGER_SERVER: GrpcLogEntry.Logger
    TIMESTAMP_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    SEQUENCE_ID_WITHIN_CALL_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    LOGGER_FIELD_NUMBER: _ClassVar[int]
    CLIENT_HEADER_FIELD_NUMBER: _ClassVar[int]
    SERVER_HEADER_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TRAILER_FIELD_NUMBER: _ClassVar[int]
    PAYLOAD_TRUNCATED_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    timestamp: _timestamp_pb2.Timestamp
    call_id: int
    sequence_id_within_call: int
    type: GrpcLogEntry.EventType
    logger: GrpcLogEntry.Logger
    client_header: ClientHeader
    server_header: ServerHeader
    message: Message
    trailer: Trailer
    payload_truncated: bool
    peer: Address
    def __init__(self, timestamp: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., call_id: _Optional[int] = ..., sequence_id_within_call: _Optional[int] = ..., type: _Optional[_Union[GrpcLogEntry.EventType, str]] = ..., logger: _Optional[_Union[GrpcLogEntry.Logger, str]] = ..., client_header: _Optional[_Union[ClientHeader, _Mapping]] = ..., server_header: _Optional[_Union[ServerHeader, _Mapping]] = ..., message: _Optional[_Union[Message, _Mapping]] = ..., trailer: _Optional[_Union[Trailer, _Mapping]] = ..., payload_truncated: bool = ..., peer: _Optional[_Union[Address, _Mapping]] = ...) -> None: ...

class ClientHeader(_message.Message):
    __slots__ = ("metadata", "method_name", "authority", "timeout")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    METHOD_NAME_FIELD_NUMBER: _ClassVar[int]
    AUTHORITY_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    metadata: Metadata
    method_name: str
    authority: str
    timeout: _duration_pb2.Duration
    def __init__(self, metadata: _Optional[_Union[Metadata, _Mapping]] = ..., method_name: _Optional[str] = ..., authority: _Optional[str] = ..., timeout: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ServerHeader(_message.Message):
    __slots__ = ("metadata",)
    METADATA_FIELD_NUMBER: _ClassVar[int]
    metadata: Metadata
    def __init__(self, metadata: _Optional[_Union[Metadata, _Mapping]] = ...) -> None: ...

class Trailer(_message.Message):
    __slots__ = ("metadata", "status_code", "status_message", "status_details")
    METADATA_FIELD_NUMBER: _ClassVar[int]
    STATUS_CODE_FIELD_NUMBER: _ClassVar[int]
    STATUS_MESSAGE_FIELD_NUMBER: _ClassVar[int]
    STATUS_DETAILS_FIELD_NUMBER: _ClassVar[int]
    metadata: Metadata
    status_code: int
    status_message: str
    status_details: bytes
    def __init__(self, metadata: _Optional[_Union[Metadata, _Mapping]] = ..., status_code: _Optional[int] = ..., status_message: _Optional[str] = ..., status_details: _Optional[bytes] = ...) -> None: ...

class Message(_message.Message):
    __slots__ = ("length", "data")
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    length: int
    data: bytes
    def __init__(self, length: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class Metadata(_message.Message):
    __slots__ = ("entry",)
    ENTRY_FIELD_NUMBER: _ClassVar[int]
    entry: _containers.RepeatedCompositeFieldContainer[MetadataEntry]
    def __init__(self, entry: _Optional[_Iterable[_Union[MetadataEntry, _Mapping]]] = ...) -> None: ...

class MetadataEntry(_message.Message):
    __slots__ = ("key", "value")
    KEY_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    key: str
    value: bytes
    def __init__(self, key: _Optional[str] = ..., value: _Optional[bytes] = ...) -> None: ...

class Address(_message.Message):
    __slots__ = ("type", "address", "ip_port")
    class Type(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        TYPE_UNKNOWN: _ClassVar[Address.Type]
        TYPE_IPV4: _ClassVar[Address.Type]
        TYPE_IPV6: _ClassVar[Address.Type]
        TYPE_UNIX: _ClassVar[Address.Type]
    TYPE_UNKNOWN: Address.Type
    TYPE_IPV4: Address.Type
    TYPE_IPV6: Address.Type
    TYPE_UNIX: Address.Type
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    IP_PORT_FIELD_NUMBER: _ClassVar[int]
    type: Address.Type
    address: str
    ip_port: int
    def __init__(self, type: _Optional[_Union[Address.Type, str]] = ..., address: _Optional[str] = ..., ip_port: _Optional[int] = ...) -> None: ...
