"""How it is found out whether a process is ready, and whether it is alive.

One module for each way; `HealthMonitor` knows only the protocols in `checks`. `make_checks` makes
the checks of a process run from its config:

    checks      the protocols, and `HealthChecks`, what a run has of them; a server that accepts a
                connection (`probe`): gRPC's health check
"""
