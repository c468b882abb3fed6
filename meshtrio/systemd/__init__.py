"""`meshtrio serve` as a service of systemd: sd_notify(3) and sd_listen_fds(3), without a library.

Theory of operation: `ServiceManager.from_environment` takes systemd's variables out of the
environment when `serve` begins, before any descriptor is opened and any child is started. It has
the listening sockets that a .socket unit has passed (`listen_fds`), which `mesh.run_service` uses
instead of its own, and never closes for others: connections queue at them while no mesh runs.

While a mesh runs, a `Notifier` reports its state. It has no task. The supervisor's own loop calls
it in each turn, and it returns when it needs the next turn at the latest, so each message, such as
the one for the watchdog, is evidence that this loop goes round: a mesh whose supervisor or event
loop is stuck goes silent, and systemd restarts it. What the notifier reports is decided by pure
functions of the table of instances (`readiness`, `status_text`). Nothing it does blocks or raises.

Meshes in other programs use none of this: the variables are for the program.
"""
