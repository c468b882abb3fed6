"""A mesh under every fault at once: `python -m tests.soak --minutes N [--seed S] [--json]`.

`meshtrio serve` runs as a process (`serve_monitored`), ten plugins of mixed kinds below it
(`config`, `programs/`), and twenty clients call them (`clients`), directly and through the gateway,
some in processes of their own and some on grpcio. Faults (`faults/`) are drawn at random from a
table that says which class of fault each belongs to: first each of them once, then by weight, up to
three at once. The same seed draws the same faults; every line of progress names the seed and the
fault's number.

In order: everything gets ready; calls without faults, after which memory and descriptors are noted;
faults; everything gets ready again by itself; the same is noted again. Then mesh and warden are
killed together, a new mesh takes the folder over and is stopped in good order.

What must hold, in `run`:

- everything is ready within `SETTLE_TIMEOUT` of the last fault;
- nothing is left at the end: no process, no socket, and no descriptor more than at the start;
- no retriable call is lost: `Echo`, which every client may repeat, is answered within its deadline,
  whatever happens to the plugin; `Slow`, which no client repeats, is executed once at the most; no
  reply is another call's, and no stream ends early without an error;
- memory and descriptors of the mesh and of its plugins are as at the start, within the tolerances
  of `usage`, and the mesh's memory does not grow on after the first third of a run;
- the mesh's event loop never stood still for longer than `MAX_STANDSTILL` (`loop_monitor`).
"""
