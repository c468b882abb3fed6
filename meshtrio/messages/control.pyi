from meshtrio.messages import load as _load_pb2
from meshtrio.messages import registry as _registry_pb2
from meshtrio.messages import tap as _tap_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ListInstancesRequest(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class ListInstancesResponse(_message.Message):
    __slots__ = ("instances",)
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    instances: _containers.RepeatedCompositeFieldContainer[Instance]
    def __init__(self, instances: _Optional[_Iterable[_Union[Instance, _Mapping]]] = ...) -> None: ...

class GetInstanceRequest(_message.Message):
    __slots__ = ("name", "instance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    instance: int
    def __init__(self, name: _Optional[str] = ..., instance: _Optional[int] = ...) -> None: ...

class Instance(_message.Message):
    __slots__ = ("name", "instance", "pid", "state", "restarts", "uptime", "socket", "reason", "start", "ready_after", "resident", "proportional", "task", "status")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    SOCKET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    READY_AFTER_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    PROPORTIONAL_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    name: str
    instance: int
    pid: int
    state: str
    restarts: int
    uptime: float
    socket: str
    reason: str
    start: str
    ready_after: float
    resident: int
    proportional: int
    task: Task
    status: str
    def __init__(self, name: _Optional[str] = ..., instance: _Optional[int] = ..., pid: _Optional[int] = ..., state: _Optional[str] = ..., restarts: _Optional[int] = ..., uptime: _Optional[float] = ..., socket: _Optional[str] = ..., reason: _Optional[str] = ..., start: _Optional[str] = ..., ready_after: _Optional[float] = ..., resident: _Optional[int] = ..., proportional: _Optional[int] = ..., task: _Optional[_Union[Task, _Mapping]] = ..., status: _Optional[str] = ...) -> None: ...

class Task(_message.Message):
    __slots__ = ("last_outcome", "last_exit_status", "last_signal", "last_duration", "last_ended", "last_success", "next_run", "missed")
    LAST_OUTCOME_FIELD_NUMBER: _ClassVar[int]
    LAST_EXIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    LAST_SIGNAL_FIELD_NUMBER: _ClassVar[int]
    LAST_DURATION_FIELD_NUMBER: _ClassVar[int]
    LAST_ENDED_FIELD_NUMBER: _ClassVar[int]
    LAST_SUCCESS_FIELD_NUMBER: _ClassVar[int]
    NEXT_RUN_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    last_outcome: str
    last_exit_status: int
    last_signal: int
    last_duration: float
    last_ended: float
    last_success: float
    next_run: float
    missed: int
    def __init__(self, last_outcome: _Optional[str] = ..., last_exit_status: _Optional[int] = ..., last_signal: _Optional[int] = ..., last_duration: _Optional[float] = ..., last_ended: _Optional[float] = ..., last_success: _Optional[float] = ..., next_run: _Optional[float] = ..., missed: _Optional[int] = ...) -> None: ...

class GetTreeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Node(_message.Message):
    __slots__ = ("kind", "name", "policy", "nodes", "instances", "after")
    class Kind(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        KIND_UNSPECIFIED: _ClassVar[Node.Kind]
        MESH: _ClassVar[Node.Kind]
        GROUP: _ClassVar[Node.Kind]
        PLUGIN: _ClassVar[Node.Kind]
        TASK: _ClassVar[Node.Kind]
    KIND_UNSPECIFIED: Node.Kind
    MESH: Node.Kind
    GROUP: Node.Kind
    PLUGIN: Node.Kind
    TASK: Node.Kind
    KIND_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    AFTER_FIELD_NUMBER: _ClassVar[int]
    kind: Node.Kind
    name: str
    policy: str
    nodes: _containers.RepeatedCompositeFieldContainer[Node]
    instances: _containers.RepeatedCompositeFieldContainer[Instance]
    after: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, kind: _Optional[_Union[Node.Kind, str]] = ..., name: _Optional[str] = ..., policy: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[Node, _Mapping]]] = ..., instances: _Optional[_Iterable[_Union[Instance, _Mapping]]] = ..., after: _Optional[_Iterable[str]] = ...) -> None: ...

class WatchEventsRequest(_message.Message):
    __slots__ = ("names", "last", "follow")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    last: int
    follow: bool
    def __init__(self, names: _Optional[_Iterable[str]] = ..., last: _Optional[int] = ..., follow: bool = ...) -> None: ...

class Event(_message.Message):
    __slots__ = ("sequence", "time", "kind", "plugin", "instance", "pid", "level", "text", "missed")
    SEQUENCE_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    sequence: int
    time: float
    kind: str
    plugin: str
    instance: int
    pid: int
    level: str
    text: str
    missed: int
    def __init__(self, sequence: _Optional[int] = ..., time: _Optional[float] = ..., kind: _Optional[str] = ..., plugin: _Optional[str] = ..., instance: _Optional[int] = ..., pid: _Optional[int] = ..., level: _Optional[str] = ..., text: _Optional[str] = ..., missed: _Optional[int] = ...) -> None: ...

class ReadLogsRequest(_message.Message):
    __slots__ = ("names", "since", "last", "follow")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    since: float
    last: int
    follow: bool
    def __init__(self, names: _Optional[_Iterable[str]] = ..., since: _Optional[float] = ..., last: _Optional[int] = ..., follow: bool = ...) -> None: ...

class LogLine(_message.Message):
    __slots__ = ("time", "plugin", "instance", "pid", "stream", "text", "missed", "level", "message", "logger", "trace_id", "span_id", "exception")
    TIME_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STREAM_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    LOGGER_FIELD_NUMBER: _ClassVar[int]
    TRACE_ID_FIELD_NUMBER: _ClassVar[int]
    SPAN_ID_FIELD_NUMBER: _ClassVar[int]
    EXCEPTION_FIELD_NUMBER: _ClassVar[int]
    time: float
    plugin: str
    instance: int
    pid: int
    stream: str
    text: str
    missed: int
    level: str
    message: str
    logger: str
    trace_id: str
    span_id: str
    exception: str
    def __init__(self, time: _Optional[float] = ..., plugin: _Optional[str] = ..., instance: _Optional[int] = ..., pid: _Optional[int] = ..., stream: _Optional[str] = ..., text: _Optional[str] = ..., missed: _Optional[int] = ..., level: _Optional[str] = ..., message: _Optional[str] = ..., logger: _Optional[str] = ..., trace_id: _Optional[str] = ..., span_id: _Optional[str] = ..., exception: _Optional[str] = ...) -> None: ...

class GetStatisticsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class WatchStatisticsRequest(_message.Message):
    __slots__ = ("interval", "by_method")
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    BY_METHOD_FIELD_NUMBER: _ClassVar[int]
    interval: float
    by_method: bool
    def __init__(self, interval: _Optional[float] = ..., by_method: bool = ...) -> None: ...

class Statistics(_message.Message):
    __slots__ = ("time", "uptime", "plugins", "groups", "total", "instances", "methods", "gateway", "interval")
    TIME_FIELD_NUMBER: _ClassVar[int]
    UPTIME_FIELD_NUMBER: _ClassVar[int]
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    GROUPS_FIELD_NUMBER: _ClassVar[int]
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    GATEWAY_FIELD_NUMBER: _ClassVar[int]
    INTERVAL_FIELD_NUMBER: _ClassVar[int]
    time: float
    uptime: float
    plugins: _containers.RepeatedCompositeFieldContainer[PluginStatistics]
    groups: _containers.RepeatedCompositeFieldContainer[PluginStatistics]
    total: PluginStatistics
    instances: _containers.RepeatedCompositeFieldContainer[InstanceStatistics]
    methods: _containers.RepeatedCompositeFieldContainer[MethodStatistics]
    gateway: _containers.RepeatedCompositeFieldContainer[MethodStatistics]
    interval: float
    def __init__(self, time: _Optional[float] = ..., uptime: _Optional[float] = ..., plugins: _Optional[_Iterable[_Union[PluginStatistics, _Mapping]]] = ..., groups: _Optional[_Iterable[_Union[PluginStatistics, _Mapping]]] = ..., total: _Optional[_Union[PluginStatistics, _Mapping]] = ..., instances: _Optional[_Iterable[_Union[InstanceStatistics, _Mapping]]] = ..., methods: _Optional[_Iterable[_Union[MethodStatistics, _Mapping]]] = ..., gateway: _Optional[_Iterable[_Union[MethodStatistics, _Mapping]]] = ..., interval: _Optional[float] = ...) -> None: ...

class MethodStatistics(_message.Message):
    __slots__ = ("plugin", "target", "service", "method", "started", "in_flight", "ended", "p50", "p95", "p99")
    class EndedEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    P50_FIELD_NUMBER: _ClassVar[int]
    P95_FIELD_NUMBER: _ClassVar[int]
    P99_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    target: str
    service: str
    method: str
    started: int
    in_flight: int
    ended: _containers.ScalarMap[str, int]
    p50: float
    p95: float
    p99: float
    def __init__(self, plugin: _Optional[str] = ..., target: _Optional[str] = ..., service: _Optional[str] = ..., method: _Optional[str] = ..., started: _Optional[int] = ..., in_flight: _Optional[int] = ..., ended: _Optional[_Mapping[str, int]] = ..., p50: _Optional[float] = ..., p95: _Optional[float] = ..., p99: _Optional[float] = ...) -> None: ...

class PluginStatistics(_message.Message):
    __slots__ = ("name", "instances", "states", "counts", "slowest_check")
    class StatesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    STATES_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    SLOWEST_CHECK_FIELD_NUMBER: _ClassVar[int]
    name: str
    instances: int
    states: _containers.ScalarMap[str, int]
    counts: Counts
    slowest_check: float
    def __init__(self, name: _Optional[str] = ..., instances: _Optional[int] = ..., states: _Optional[_Mapping[str, int]] = ..., counts: _Optional[_Union[Counts, _Mapping]] = ..., slowest_check: _Optional[float] = ...) -> None: ...

class Counts(_message.Message):
    __slots__ = ("starts", "restarts", "renewals", "not_started", "exits", "killed", "gave_up", "unready", "lines", "lines_dropped")
    STARTS_FIELD_NUMBER: _ClassVar[int]
    RESTARTS_FIELD_NUMBER: _ClassVar[int]
    RENEWALS_FIELD_NUMBER: _ClassVar[int]
    NOT_STARTED_FIELD_NUMBER: _ClassVar[int]
    EXITS_FIELD_NUMBER: _ClassVar[int]
    KILLED_FIELD_NUMBER: _ClassVar[int]
    GAVE_UP_FIELD_NUMBER: _ClassVar[int]
    UNREADY_FIELD_NUMBER: _ClassVar[int]
    LINES_FIELD_NUMBER: _ClassVar[int]
    LINES_DROPPED_FIELD_NUMBER: _ClassVar[int]
    starts: int
    restarts: int
    renewals: int
    not_started: int
    exits: int
    killed: int
    gave_up: int
    unready: int
    lines: int
    lines_dropped: int
    def __init__(self, starts: _Optional[int] = ..., restarts: _Optional[int] = ..., renewals: _Optional[int] = ..., not_started: _Optional[int] = ..., exits: _Optional[int] = ..., killed: _Optional[int] = ..., gave_up: _Optional[int] = ..., unready: _Optional[int] = ..., lines: _Optional[int] = ..., lines_dropped: _Optional[int] = ...) -> None: ...

class InstanceStatistics(_message.Message):
    __slots__ = ("instance", "cpu", "resident", "load")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    RESIDENT_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    instance: Instance
    cpu: float
    resident: int
    load: _load_pb2.LoadReport
    def __init__(self, instance: _Optional[_Union[Instance, _Mapping]] = ..., cpu: _Optional[float] = ..., resident: _Optional[int] = ..., load: _Optional[_Union[_load_pb2.LoadReport, _Mapping]] = ...) -> None: ...

class StartRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class StartResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class StopRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class StopResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DrainRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class DrainResponse(_message.Message):
    __slots__ = ("instances",)
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    instances: _containers.RepeatedCompositeFieldContainer[Drained]
    def __init__(self, instances: _Optional[_Iterable[_Union[Drained, _Mapping]]] = ...) -> None: ...

class Drained(_message.Message):
    __slots__ = ("plugin", "instance", "ended", "forced", "cut_calls", "cut_calls_known")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    FORCED_FIELD_NUMBER: _ClassVar[int]
    CUT_CALLS_FIELD_NUMBER: _ClassVar[int]
    CUT_CALLS_KNOWN_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    instance: int
    ended: str
    forced: bool
    cut_calls: _containers.RepeatedScalarFieldContainer[str]
    cut_calls_known: bool
    def __init__(self, plugin: _Optional[str] = ..., instance: _Optional[int] = ..., ended: _Optional[str] = ..., forced: bool = ..., cut_calls: _Optional[_Iterable[str]] = ..., cut_calls_known: bool = ...) -> None: ...

class RestartRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RestartResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ScaleRequest(_message.Message):
    __slots__ = ("name", "instances")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    name: str
    instances: int
    def __init__(self, name: _Optional[str] = ..., instances: _Optional[int] = ...) -> None: ...

class ScaleResponse(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetLogLevelsRequest(_message.Message):
    __slots__ = ("names",)
    NAMES_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, names: _Optional[_Iterable[str]] = ...) -> None: ...

class GetLogLevelsResponse(_message.Message):
    __slots__ = ("plugins",)
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    plugins: _containers.RepeatedCompositeFieldContainer[PluginLogLevel]
    def __init__(self, plugins: _Optional[_Iterable[_Union[PluginLogLevel, _Mapping]]] = ...) -> None: ...

class PluginLogLevel(_message.Message):
    __slots__ = ("plugin", "level", "instances")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    INSTANCES_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    level: str
    instances: _containers.RepeatedCompositeFieldContainer[InstanceLogLevel]
    def __init__(self, plugin: _Optional[str] = ..., level: _Optional[str] = ..., instances: _Optional[_Iterable[_Union[InstanceLogLevel, _Mapping]]] = ...) -> None: ...

class InstanceLogLevel(_message.Message):
    __slots__ = ("instance", "pid", "level", "note")
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    NOTE_FIELD_NUMBER: _ClassVar[int]
    instance: int
    pid: int
    level: str
    note: str
    def __init__(self, instance: _Optional[int] = ..., pid: _Optional[int] = ..., level: _Optional[str] = ..., note: _Optional[str] = ...) -> None: ...

class SetLogLevelRequest(_message.Message):
    __slots__ = ("name", "level")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    name: str
    level: str
    def __init__(self, name: _Optional[str] = ..., level: _Optional[str] = ...) -> None: ...

class SetLogLevelResponse(_message.Message):
    __slots__ = ("plugins",)
    PLUGINS_FIELD_NUMBER: _ClassVar[int]
    plugins: _containers.RepeatedCompositeFieldContainer[PluginLogLevel]
    def __init__(self, plugins: _Optional[_Iterable[_Union[PluginLogLevel, _Mapping]]] = ...) -> None: ...

class RunTaskRequest(_message.Message):
    __slots__ = ("name",)
    NAME_FIELD_NUMBER: _ClassVar[int]
    name: str
    def __init__(self, name: _Optional[str] = ...) -> None: ...

class RunTaskResponse(_message.Message):
    __slots__ = ("stdout", "stderr", "result", "missed")
    STDOUT_FIELD_NUMBER: _ClassVar[int]
    STDERR_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    stdout: bytes
    stderr: bytes
    result: TaskResult
    missed: int
    def __init__(self, stdout: _Optional[bytes] = ..., stderr: _Optional[bytes] = ..., result: _Optional[_Union[TaskResult, _Mapping]] = ..., missed: _Optional[int] = ...) -> None: ...

class TaskResult(_message.Message):
    __slots__ = ("outcome", "exit_status", "signal", "text", "duration")
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    EXIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    DURATION_FIELD_NUMBER: _ClassVar[int]
    outcome: str
    exit_status: int
    signal: int
    text: str
    duration: float
    def __init__(self, outcome: _Optional[str] = ..., exit_status: _Optional[int] = ..., signal: _Optional[int] = ..., text: _Optional[str] = ..., duration: _Optional[float] = ...) -> None: ...

class ReloadRequest(_message.Message):
    __slots__ = ("path",)
    PATH_FIELD_NUMBER: _ClassVar[int]
    path: str
    def __init__(self, path: _Optional[str] = ...) -> None: ...

class ReloadResponse(_message.Message):
    __slots__ = ("added", "removed", "restarted", "scaled", "adjusted")
    ADDED_FIELD_NUMBER: _ClassVar[int]
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    RESTARTED_FIELD_NUMBER: _ClassVar[int]
    SCALED_FIELD_NUMBER: _ClassVar[int]
    ADJUSTED_FIELD_NUMBER: _ClassVar[int]
    added: _containers.RepeatedScalarFieldContainer[str]
    removed: _containers.RepeatedScalarFieldContainer[str]
    restarted: _containers.RepeatedScalarFieldContainer[str]
    scaled: _containers.RepeatedScalarFieldContainer[str]
    adjusted: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, added: _Optional[_Iterable[str]] = ..., removed: _Optional[_Iterable[str]] = ..., restarted: _Optional[_Iterable[str]] = ..., scaled: _Optional[_Iterable[str]] = ..., adjusted: _Optional[_Iterable[str]] = ...) -> None: ...

class UpgradeRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UpgradeResponse(_message.Message):
    __slots__ = ("execution",)
    EXECUTION_FIELD_NUMBER: _ClassVar[int]
    execution: Execution
    def __init__(self, execution: _Optional[_Union[Execution, _Mapping]] = ...) -> None: ...

class GetExecutionRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Execution(_message.Message):
    __slots__ = ("number", "version", "failures", "problem")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    number: int
    version: str
    failures: int
    problem: str
    def __init__(self, number: _Optional[int] = ..., version: _Optional[str] = ..., failures: _Optional[int] = ..., problem: _Optional[str] = ...) -> None: ...

class WatchCallsOfRequest(_message.Message):
    __slots__ = ("names", "calls")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    calls: _tap_pb2.WatchCallsRequest
    def __init__(self, names: _Optional[_Iterable[str]] = ..., calls: _Optional[_Union[_tap_pb2.WatchCallsRequest, _Mapping]] = ...) -> None: ...

class WatchedCall(_message.Message):
    __slots__ = ("plugin", "instance", "call", "missed", "silent")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    SILENT_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    instance: int
    call: _tap_pb2.EndedCall
    missed: int
    silent: bool
    def __init__(self, plugin: _Optional[str] = ..., instance: _Optional[int] = ..., call: _Optional[_Union[_tap_pb2.EndedCall, _Mapping]] = ..., missed: _Optional[int] = ..., silent: bool = ...) -> None: ...

class ListServiceStatesRequest(_message.Message):
    __slots__ = ("services",)
    SERVICES_FIELD_NUMBER: _ClassVar[int]
    services: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, services: _Optional[_Iterable[str]] = ...) -> None: ...

class ListServiceStatesResponse(_message.Message):
    __slots__ = ("states", "balancing")
    STATES_FIELD_NUMBER: _ClassVar[int]
    BALANCING_FIELD_NUMBER: _ClassVar[int]
    states: _containers.RepeatedCompositeFieldContainer[_registry_pb2.ServiceState]
    balancing: _containers.RepeatedCompositeFieldContainer[ServiceBalancing]
    def __init__(self, states: _Optional[_Iterable[_Union[_registry_pb2.ServiceState, _Mapping]]] = ..., balancing: _Optional[_Iterable[_Union[ServiceBalancing, _Mapping]]] = ...) -> None: ...

class ServiceBalancing(_message.Message):
    __slots__ = ("service", "own_endpoints_only", "policy", "waiting", "endpoints")
    SERVICE_FIELD_NUMBER: _ClassVar[int]
    OWN_ENDPOINTS_ONLY_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    service: str
    own_endpoints_only: bool
    policy: str
    waiting: int
    endpoints: _containers.RepeatedCompositeFieldContainer[EndpointBalancing]
    def __init__(self, service: _Optional[str] = ..., own_endpoints_only: bool = ..., policy: _Optional[str] = ..., waiting: _Optional[int] = ..., endpoints: _Optional[_Iterable[_Union[EndpointBalancing, _Mapping]]] = ...) -> None: ...

class EndpointBalancing(_message.Message):
    __slots__ = ("endpoint_id", "address", "connectivity", "available", "in_flight", "weight", "priority", "ejection", "healthy", "failed_connects", "connect_error", "retries", "ejections")
    ENDPOINT_ID_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    CONNECTIVITY_FIELD_NUMBER: _ClassVar[int]
    AVAILABLE_FIELD_NUMBER: _ClassVar[int]
    IN_FLIGHT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PRIORITY_FIELD_NUMBER: _ClassVar[int]
    EJECTION_FIELD_NUMBER: _ClassVar[int]
    HEALTHY_FIELD_NUMBER: _ClassVar[int]
    FAILED_CONNECTS_FIELD_NUMBER: _ClassVar[int]
    CONNECT_ERROR_FIELD_NUMBER: _ClassVar[int]
    RETRIES_FIELD_NUMBER: _ClassVar[int]
    EJECTIONS_FIELD_NUMBER: _ClassVar[int]
    endpoint_id: str
    address: str
    connectivity: str
    available: bool
    in_flight: int
    weight: int
    priority: int
    ejection: EndpointEjection
    healthy: bool
    failed_connects: int
    connect_error: str
    retries: int
    ejections: int
    def __init__(self, endpoint_id: _Optional[str] = ..., address: _Optional[str] = ..., connectivity: _Optional[str] = ..., available: bool = ..., in_flight: _Optional[int] = ..., weight: _Optional[int] = ..., priority: _Optional[int] = ..., ejection: _Optional[_Union[EndpointEjection, _Mapping]] = ..., healthy: bool = ..., failed_connects: _Optional[int] = ..., connect_error: _Optional[str] = ..., retries: _Optional[int] = ..., ejections: _Optional[int] = ...) -> None: ...

class EndpointEjection(_message.Message):
    __slots__ = ("since", "until", "rule")
    SINCE_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    since: float
    until: float
    rule: str
    def __init__(self, since: _Optional[float] = ..., until: _Optional[float] = ..., rule: _Optional[str] = ...) -> None: ...

class ListNodesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListNodesResponse(_message.Message):
    __slots__ = ("nodes", "discovery")
    NODES_FIELD_NUMBER: _ClassVar[int]
    DISCOVERY_FIELD_NUMBER: _ClassVar[int]
    nodes: _containers.RepeatedCompositeFieldContainer[MeshNode]
    discovery: DiscoveryStatus
    def __init__(self, nodes: _Optional[_Iterable[_Union[MeshNode, _Mapping]]] = ..., discovery: _Optional[_Union[DiscoveryStatus, _Mapping]] = ...) -> None: ...

class MeshNode(_message.Message):
    __slots__ = ("name", "zone", "address", "endpoints", "lease", "since", "version", "this_mesh")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ZONE_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    ENDPOINTS_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    THIS_MESH_FIELD_NUMBER: _ClassVar[int]
    name: str
    zone: str
    address: str
    endpoints: int
    lease: str
    since: float
    version: str
    this_mesh: bool
    def __init__(self, name: _Optional[str] = ..., zone: _Optional[str] = ..., address: _Optional[str] = ..., endpoints: _Optional[int] = ..., lease: _Optional[str] = ..., since: _Optional[float] = ..., version: _Optional[str] = ..., this_mesh: bool = ...) -> None: ...

class DiscoveryStatus(_message.Message):
    __slots__ = ("node", "prefix", "connected", "problem", "lag", "member", "revision", "registered", "registration_problem", "lease", "lease_renewals", "lease_losses", "ignored_keys")
    class IgnoredKeysEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NODE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    LAG_FIELD_NUMBER: _ClassVar[int]
    MEMBER_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    REGISTRATION_PROBLEM_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    LEASE_RENEWALS_FIELD_NUMBER: _ClassVar[int]
    LEASE_LOSSES_FIELD_NUMBER: _ClassVar[int]
    IGNORED_KEYS_FIELD_NUMBER: _ClassVar[int]
    node: str
    prefix: str
    connected: bool
    problem: str
    lag: float
    member: str
    revision: int
    registered: bool
    registration_problem: str
    lease: str
    lease_renewals: int
    lease_losses: int
    ignored_keys: _containers.ScalarMap[str, str]
    def __init__(self, node: _Optional[str] = ..., prefix: _Optional[str] = ..., connected: bool = ..., problem: _Optional[str] = ..., lag: _Optional[float] = ..., member: _Optional[str] = ..., revision: _Optional[int] = ..., registered: bool = ..., registration_problem: _Optional[str] = ..., lease: _Optional[str] = ..., lease_renewals: _Optional[int] = ..., lease_losses: _Optional[int] = ..., ignored_keys: _Optional[_Mapping[str, str]] = ...) -> None: ...

class QueryNodesRequest(_message.Message):
    __slots__ = ("calls", "nodes")
    CALLS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    calls: _containers.RepeatedCompositeFieldContainer[NodeCall]
    nodes: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, calls: _Optional[_Iterable[_Union[NodeCall, _Mapping]]] = ..., nodes: _Optional[_Iterable[str]] = ...) -> None: ...

class NodeCall(_message.Message):
    __slots__ = ("method", "request")
    METHOD_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    method: str
    request: bytes
    def __init__(self, method: _Optional[str] = ..., request: _Optional[bytes] = ...) -> None: ...

class QueryNodesResponse(_message.Message):
    __slots__ = ("results", "this_node")
    RESULTS_FIELD_NUMBER: _ClassVar[int]
    THIS_NODE_FIELD_NUMBER: _ClassVar[int]
    results: _containers.RepeatedCompositeFieldContainer[NodeResult]
    this_node: str
    def __init__(self, results: _Optional[_Iterable[_Union[NodeResult, _Mapping]]] = ..., this_node: _Optional[str] = ...) -> None: ...

class NodeResult(_message.Message):
    __slots__ = ("node", "replies", "problem")
    NODE_FIELD_NUMBER: _ClassVar[int]
    REPLIES_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    node: str
    replies: _containers.RepeatedCompositeFieldContainer[NodeReply]
    problem: str
    def __init__(self, node: _Optional[str] = ..., replies: _Optional[_Iterable[_Union[NodeReply, _Mapping]]] = ..., problem: _Optional[str] = ...) -> None: ...

class NodeReply(_message.Message):
    __slots__ = ("reply",)
    REPLY_FIELD_NUMBER: _ClassVar[int]
    reply: bytes
    def __init__(self, reply: _Optional[bytes] = ...) -> None: ...

class GetEnvironmentRequest(_message.Message):
    __slots__ = ("name", "instance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    instance: int
    def __init__(self, name: _Optional[str] = ..., instance: _Optional[int] = ...) -> None: ...

class GetEnvironmentResponse(_message.Message):
    __slots__ = ("variables",)
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    variables: _containers.RepeatedScalarFieldContainer[bytes]
    def __init__(self, variables: _Optional[_Iterable[bytes]] = ...) -> None: ...

class AttachRequest(_message.Message):
    __slots__ = ("name", "instance")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    name: str
    instance: int
    def __init__(self, name: _Optional[str] = ..., instance: _Optional[int] = ...) -> None: ...

class AttachUpdate(_message.Message):
    __slots__ = ("process", "stop_reason")
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    STOP_REASON_FIELD_NUMBER: _ClassVar[int]
    process: AttachedProcess
    stop_reason: str
    def __init__(self, process: _Optional[_Union[AttachedProcess, _Mapping]] = ..., stop_reason: _Optional[str] = ...) -> None: ...

class AttachedProcess(_message.Message):
    __slots__ = ("variables", "command", "directory", "user_id", "group_id", "stop_timeout")
    VARIABLES_FIELD_NUMBER: _ClassVar[int]
    COMMAND_FIELD_NUMBER: _ClassVar[int]
    DIRECTORY_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    GROUP_ID_FIELD_NUMBER: _ClassVar[int]
    STOP_TIMEOUT_FIELD_NUMBER: _ClassVar[int]
    variables: _containers.RepeatedScalarFieldContainer[bytes]
    command: _containers.RepeatedScalarFieldContainer[bytes]
    directory: bytes
    user_id: int
    group_id: int
    stop_timeout: float
    def __init__(self, variables: _Optional[_Iterable[bytes]] = ..., command: _Optional[_Iterable[bytes]] = ..., directory: _Optional[bytes] = ..., user_id: _Optional[int] = ..., group_id: _Optional[int] = ..., stop_timeout: _Optional[float] = ...) -> None: ...

class GetHistoryRequest(_message.Message):
    __slots__ = ("names", "since", "before")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    BEFORE_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    since: float
    before: int
    def __init__(self, names: _Optional[_Iterable[str]] = ..., since: _Optional[float] = ..., before: _Optional[int] = ...) -> None: ...

class GetHistoryResponse(_message.Message):
    __slots__ = ("lives", "oldest", "dropped", "left_out", "time")
    LIVES_FIELD_NUMBER: _ClassVar[int]
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    lives: _containers.RepeatedCompositeFieldContainer[Life]
    oldest: float
    dropped: _containers.RepeatedCompositeFieldContainer[DroppedLives]
    left_out: int
    time: float
    def __init__(self, lives: _Optional[_Iterable[_Union[Life, _Mapping]]] = ..., oldest: _Optional[float] = ..., dropped: _Optional[_Iterable[_Union[DroppedLives, _Mapping]]] = ..., left_out: _Optional[int] = ..., time: _Optional[float] = ...) -> None: ...

class WatchHistoryRequest(_message.Message):
    __slots__ = ("names", "since", "follow")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    FOLLOW_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[str]
    since: float
    follow: bool
    def __init__(self, names: _Optional[_Iterable[str]] = ..., since: _Optional[float] = ..., follow: bool = ...) -> None: ...

class HistoryUpdate(_message.Message):
    __slots__ = ("lives", "oldest", "dropped", "time", "missed")
    LIVES_FIELD_NUMBER: _ClassVar[int]
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    DROPPED_FIELD_NUMBER: _ClassVar[int]
    TIME_FIELD_NUMBER: _ClassVar[int]
    MISSED_FIELD_NUMBER: _ClassVar[int]
    lives: _containers.RepeatedCompositeFieldContainer[Life]
    oldest: float
    dropped: _containers.RepeatedCompositeFieldContainer[DroppedLives]
    time: float
    missed: int
    def __init__(self, lives: _Optional[_Iterable[_Union[Life, _Mapping]]] = ..., oldest: _Optional[float] = ..., dropped: _Optional[_Iterable[_Union[DroppedLives, _Mapping]]] = ..., time: _Optional[float] = ..., missed: _Optional[int] = ...) -> None: ...

class Life(_message.Message):
    __slots__ = ("id", "plugin", "instance", "task", "pid", "started", "ended", "start", "follows", "moments", "moments_dropped", "outcome", "reason", "exit_status", "signal", "last_lines", "next_state")
    ID_FIELD_NUMBER: _ClassVar[int]
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    TASK_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    STARTED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    START_FIELD_NUMBER: _ClassVar[int]
    FOLLOWS_FIELD_NUMBER: _ClassVar[int]
    MOMENTS_FIELD_NUMBER: _ClassVar[int]
    MOMENTS_DROPPED_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    EXIT_STATUS_FIELD_NUMBER: _ClassVar[int]
    SIGNAL_FIELD_NUMBER: _ClassVar[int]
    LAST_LINES_FIELD_NUMBER: _ClassVar[int]
    NEXT_STATE_FIELD_NUMBER: _ClassVar[int]
    id: int
    plugin: str
    instance: int
    task: bool
    pid: int
    started: float
    ended: float
    start: str
    follows: str
    moments: _containers.RepeatedCompositeFieldContainer[Moment]
    moments_dropped: int
    outcome: str
    reason: str
    exit_status: int
    signal: int
    last_lines: _containers.RepeatedScalarFieldContainer[str]
    next_state: str
    def __init__(self, id: _Optional[int] = ..., plugin: _Optional[str] = ..., instance: _Optional[int] = ..., task: bool = ..., pid: _Optional[int] = ..., started: _Optional[float] = ..., ended: _Optional[float] = ..., start: _Optional[str] = ..., follows: _Optional[str] = ..., moments: _Optional[_Iterable[_Union[Moment, _Mapping]]] = ..., moments_dropped: _Optional[int] = ..., outcome: _Optional[str] = ..., reason: _Optional[str] = ..., exit_status: _Optional[int] = ..., signal: _Optional[int] = ..., last_lines: _Optional[_Iterable[str]] = ..., next_state: _Optional[str] = ...) -> None: ...

class Moment(_message.Message):
    __slots__ = ("time", "kind", "text")
    TIME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    TEXT_FIELD_NUMBER: _ClassVar[int]
    time: float
    kind: str
    text: str
    def __init__(self, time: _Optional[float] = ..., kind: _Optional[str] = ..., text: _Optional[str] = ...) -> None: ...

class DroppedLives(_message.Message):
    __slots__ = ("plugin", "instance", "count", "until")
    PLUGIN_FIELD_NUMBER: _ClassVar[int]
    INSTANCE_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    plugin: str
    instance: int
    count: int
    until: float
    def __init__(self, plugin: _Optional[str] = ..., instance: _Optional[int] = ..., count: _Optional[int] = ..., until: _Optional[float] = ...) -> None: ...

class GetConfigRequest(_message.Message):
    __slots__ = ("defaults",)
    DEFAULTS_FIELD_NUMBER: _ClassVar[int]
    defaults: bool
    def __init__(self, defaults: bool = ...) -> None: ...

class GetConfigResponse(_message.Message):
    __slots__ = ("toml", "source", "masked")
    TOML_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    MASKED_FIELD_NUMBER: _ClassVar[int]
    toml: str
    source: str
    masked: int
    def __init__(self, toml: _Optional[str] = ..., source: _Optional[str] = ..., masked: _Optional[int] = ...) -> None: ...
