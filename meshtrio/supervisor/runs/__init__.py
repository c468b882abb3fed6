"""Process runs: each is one process of an instance, from its start to when it is gone.

Theory of operation
-------------------

`ProcessRun` starts a process, or adopts one after an upgrade, and has `ProcessSupervision`
supervise it to its end. Both change the `RunAvailability`: the state of the run, and its entry in
the registry, which it has while it is ready. `RunFailure` has why the mesh ends the process, if it
does; whatever finds a reason records it there.

    process_run       one process run, from the start of its process to its exit
    launch            its preparation and spawn, with the variables that `environment` builds
    supervision       the process while it runs: health checks, notifications, stop and end
    health_monitor    checks of its health: readiness first, then liveness
    availability      its state, with `registration`, its entry in the registry
    run_failure       why its process has to be ended
    output_reader     reads what it writes
    process_end       makes its exit
    saved_run         what an upgrade hands over of it

Runs of tasks (`tasks.run`) have `launch`, `environment`, `output_reader` and `process_end` in
common with it.

A run is used once: the supervisor makes another one for the next process.
"""
