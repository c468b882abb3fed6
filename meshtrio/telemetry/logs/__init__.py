"""Log records: lifecycle events and plugins' output, and formatters with trace ids.

Theory of operation
-------------------

A plugin logs to stderr: lines of JSON if its mesh reads them, plain text otherwise
(`plugin_logging`). The mesh's supervisor reads the lines and sends each as an event; `event_logger`
turns every event, and every line, into one record of the standard library's logging, whose level,
message and fields are those of the line. What becomes of the records is up to the program's
handlers: `formatters.JsonFormatter` writes them as lines of JSON, `meshtrio serve` also as plain
text.

    event_logger     events and lines to records
    plugin_logging   the log of a plugin's process
    formatters       records to lines of JSON; TraceIdFilter
    json_lines       any values to one line of JSON, bounded in length
    trace_ids        ids of the current trace and span

Formatting never raises and never writes more than one line for a record, whatever was logged.
"""
