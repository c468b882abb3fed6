from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListServicesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListServicesResponse(_message.Message):
    __slots__ = ("services",)
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    services: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, services: _Optional[_Iterable[str]] = ...) -> None: ...

class RegisterRequest(_message.Message):
    __slots__ = ("service", "address", "weight", "local", "tls", "path")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    LOCAL_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    service: str
    address: str
    weight: int
    local: bool
    tls: Tls
    path: bytes
    def __init__(self, service: _Optional[str] = ..., address: _Optional[str] = ..., weight: _Optional[int] = ..., local: bool = ..., tls: _Optional[_Union[Tls, _Mapping]] = ..., path: _Optional[bytes] = ...) -> None: ...

class RegisterResponse(_message.Message):
    __slots__ = ("endpoint_id",)
    ENDPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    endpoint_id: str
    def __init__(self, endpoint_id: _Optional[str] = ...) -> None: ...

class ResolveRequest(_message.Message):
    __slots__ = ("service", "unreachable_endpoint_id", "wanted")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_ENDPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    service: str
    unreachable_endpoint_id: str
    wanted: bool
    def __init__(self, service: _Optional[str] = ..., unreachable_endpoint_id: _Optional[str] = ..., wanted: bool = ...) -> None: ...

class ServiceState(_message.Message):
    __slots__ = ("service", "endpoints", "departures", "service_config", "unattended", "on_demand")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    DEPARTURES_FIELD_NUMBER: _ClassVar[int]
    SERVICE_CONFIG_FIELD_NUMBER: _ClassVar[int]
    UNATTENDED_FIELD_NUMBER: _ClassVar[int]
    ON_DEMAND_FIELD_NUMBER: _ClassVar[int]
    service: str
    endpoints: _containers.RepeatedCompositeFieldContainer[Endpoint]
    departures: _containers.RepeatedCompositeFieldContainer[Departure]
    service_config: str
    unattended: bool
    on_demand: bool
    def __init__(self, service: _Optional[str] = ..., endpoints: _Optional[_Iterable[_Union[Endpoint, _Mapping]]] = ..., departures: _Optional[_Iterable[_Union[Departure, _Mapping]]] = ..., service_config: _Optional[str] = ..., unattended: bool = ..., on_demand: bool = ...) -> None: ...

class Endpoint(_message.Message):
    __slots__ = ("id", "address", "instance", "pid", "weight", "priority", "tls", "owner", "path", "node", "gateway")
    ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    TLS_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    id: str
    address: str
    instance: int
    pid: int
    weight: int
    priority: int
    tls: Tls
    owner: int
    path: bytes
    node: str
    gateway: bool
    def __init__(self, id: _Optional[str] = ..., address: _Optional[str] = ..., instance: _Optional[int] = ..., pid: _Optional[int] = ..., weight: _Optional[int] = ..., priority: _Optional[int] = ..., tls: _Optional[_Union[Tls, _Mapping]] = ..., owner: _Optional[int] = ..., path: _Optional[bytes] = ..., node: _Optional[str] = ..., gateway: bool = ...) -> None: ...

class Tls(_message.Message):
    __slots__ = ("ca_path", "certificate_path", "key_path", "server_name")
    CA_PATH_FIELD_NUMBER: _ClassVar[int]
    CERTIFICATE_PATH_FIELD_NUMBER: _ClassVar[int]
    KEY_PATH_FIELD_NUMBER: _ClassVar[int]
    SERVER_NAME_FIELD_NUMBER: _ClassVar[int]
    ca_path: str
    certificate_path: str
    key_path: str
    server_name: str
    def __init__(self, ca_path: _Optional[str] = ..., certificate_path: _Optional[str] = ..., key_path: _Optional[str] = ..., server_name: _Optional[str] = ...) -> None: ...

class Departure(_message.Message):
    __slots__ = ("endpoint_id", "reason", "exit_status", "signal", "stderr_tail", "launch_id")
    ENDPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    STDERR_TAIL_FIELD_NUMBER: _ClassVar[int]
    LAUNCH_ID_FIELD_NUMBER: _ClassVar[int]
    endpoint_id: str
    reason: str
    exit_status: int
    signal: int
    stderr_tail: _containers.RepeatedScalarFieldContainer[str]
    launch_id: str
    def __init__(self, endpoint_id: _Optional[str] = ..., reason: _Optional[str] = ..., exit_status: _Optional[int] = ..., signal: _Optional[int] = ..., stderr_tail: _Optional[_Iterable[str]] = ..., launch_id: _Optional[str] = ...) -> None: ...
