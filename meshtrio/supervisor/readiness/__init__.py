"""How it is found out whether a process is ready, and whether it is alive.

One module for each way; `HealthMonitor` knows only the protocols in `checks`. `factory` makes the
checks of a process run from its config:

    checks      the protocols; `HealthChecks`, what a run has of them; a process that was started
    server      a connection to a server (`probe`), and what it has to answer there
    http        a GET request
    newline     a newline on a descriptor that the process inherits
    notify      the notifications of sd_notify(3), which `notify_channel` receives and
                `notification` parses
    channels    the pipe and the socket of the two above, from before a start to the end
    factory     `make_checks`

Invariants:

- A check returns a result, or raises NotReadyError, whatever a process or server does.
- What a process or server sends costs a bounded amount of memory, and of work per wake-up.
"""
