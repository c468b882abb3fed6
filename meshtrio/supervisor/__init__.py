"""Supervision of plugin processes.

The supervisor keeps the plugins of a mesh running: it starts them in the order of `depends_on`,
probes and restarts them, replaces them without losing calls, and stops them in reverse. The words
are OTP's where OTP has them (supervisor, restart strategy, intensity as `max_restarts` within
`restart_period`), and otherwise Kubernetes' (reconcile, readiness, liveness).

Who owns what:

- `Supervisor` owns the `InstanceTable` and the nursery of all runs. Its loop, one task, is the only
  one that launches and terminates runs; `reconciliation/` is what it does in its turns.
- `Instance` is a row of that table: its phase, the active run, a replacement, runs that drain, and
  the history that the restart policy needs. `instance_status` shows it to users.
- `runs/`: `ProcessRun` owns one process: launch, health checks, the entry in the registry, the end.
- `saved_state`, `saved_instance`, `runs.saved_run` and `tasks.saved_task` are what an upgrade hands
  over: each has functions that save and adopt one kind of object.
- `HeldSockets` owns the listening sockets that the mesh holds for an instance (`listen_fds`), and
  each run uses one of them. `acceptance` finds out which run has accepted a connection.
- `tasks/` has the table of tasks, which run to their end and serve nothing; the same loop plans it.
- `policy/` decides, without clock, processes or trio: `state` (which phase follows), `plan` (what
  to start and stop), `restart` (whether to start again, and what a failure means for others),
  `diagnosis` (stuck or overloaded).
- `process/` is the system below: spawn, /proc, cgroups, and the warden, which kills the plugins
  should the mesh be killed. `Effects` is all that the supervisor uses of it, as one object; tests
  replace it, and run minutes of supervision in virtual time.
- `operations/` is what callers use: each requests changes of instances and waits for them.

The order of calls, for a start:

    Operations.start -> Supervisor.request_start -> Instance.request_start    (phase WAITING)
    Reconciler.reconcile -> plan -> Instance.launch                           (phase RUNNING)
    ProcessRun.run -> Launch.spawn -> HealthMonitor.run -> Registration.register

and for an end without a request:

    ProcessRun.run -> Registration.deregister -> RunReaper -> ExitHandler.handle_exit
    -> Instance.handle_exit -> decide_restart (policy/restart) -> Instance.retry or finish

Invariants:

- Phases change only by the table in `policy/state.py`; any other pair raises.
- An instance with a run is never launched again, except as a replacement in its other slot.
- A run that is stopped or replaced leaves the registry before its process is sent SIGTERM. However
  a run ends, its exit info is in the registry as soon as the mesh knows of it, for the callers.
- Errors of one run, subscriber or check end that and nothing else. Only an escalation to the mesh,
  SystemExit and KeyboardInterrupt end the supervisor, after all processes were stopped.
- The supervisor loop and the ends of processes are shielded: a cancelled mesh stops its plugins in
  order, and returns when no process is left, or those that cannot be killed are reported.
"""
