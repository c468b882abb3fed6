"""Metrics, traces, binary logs and log records of calls and of plugins' processes.

Theory of operation
-------------------

Telemetry observes and never decides. The packages below know nothing of it: `rpc.tracer` defines
the interface of call tracers (gRFC A66), `supervisor.events` that of lifecycle subscribers, and
telemetry implements both. A tracer that raises costs a log line, not the call.

    setup                       which parts a process has; services.telemetry_setup is the mesh's
    metric_families             metrics as values, without a library
    metrics                     measuring calls, the mesh and its processes; Prometheus
    traces                      OpenTelemetry spans (extra `tracing`)
    binary_log                  gRFC A16
    logs                        log records and their format
    optional_dependencies       which extra installs what

A part is a context manager: it is installed for the calls of all channels and servers that are
created in its block, and flushes at its end, within bounded time. Exporters and writers have a
bounded queue each: under pressure they drop and count, and no call ever waits for them.

Imports are lazy where they cost start-up time: a plugin without telemetry imports none of it.
"""
